/** The question before a restore: what it changes. */

import { ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IPreview } from './api';

const MOST_SHOWN = 200;

export class Preview extends ReactWidget {
  constructor(
    private readonly preview: IPreview,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('dm-Preview');
  }

  render(): JSX.Element {
    const { preview, trans } = this;
    const nothing = !preview.replaced.length && !preview.new.length;
    return (
      <>
        {nothing && <p>{trans.__('All of that is in your folder exactly so already.')}</p>}
        <Names title={trans.__('Replaced by what they were then')} names={preview.replaced} trans={trans} />
        <Names title={trans.__('Not there now, come back')} names={preview.new} trans={trans} />
        <Names title={trans.__('Not kept with your work (large files of the course)')} names={preview.not_stored} trans={trans} />
        {!nothing && (
          <p>{trans.__('Everything as it is now is saved first, and can be brought back by Undo. Other files stay.')}</p>
        )}
      </>
    );
  }
}

function Names({ title, names, trans }: { title: string; names: string[]; trans: TranslationBundle }): JSX.Element | null {
  if (!names.length) {
    return null;
  }
  return (
    <>
      <p>
        {title} ({names.length}):
      </p>
      <ul tabIndex={names.length > 8 ? 0 : undefined} aria-label={title}>
        {names.slice(0, MOST_SHOWN).map(name => (
          <li key={name}>{name}</li>
        ))}
        {names.length > MOST_SHOWN && <li>{trans.__('and %1 more', names.length - MOST_SHOWN)}</li>}
      </ul>
    </>
  );
}
