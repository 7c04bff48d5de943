/** What a restore changes: the question before it. */

import { ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IPreview } from './api';

const MOST_SHOWN = 200;

interface IProps {
  preview: IPreview;
  trans: TranslationBundle;
  /** It is of somebody else. */
  shared?: boolean;
}

export class Preview extends ReactWidget {
  constructor(private readonly props: IProps) {
    super();
    this.addClass('dm-Preview');
  }

  render(): JSX.Element {
    return <Changes {...this.props} />;
  }
}

/** The files by what happens to them. Nothing is ever removed. */
export function Changes({ preview, trans, shared }: IProps): JSX.Element {
  const nothing = !preview.replaced.length && !preview.new.length;
  return (
    <>
      {nothing && <p>{trans.__('All of that is in your folder exactly so already.')}</p>}
      <Names
        title={shared ? trans.__('Replaced by the shared ones') : trans.__('Replaced by what they were then')}
        names={preview.replaced}
        trans={trans}
      />
      <Names title={trans.__('Not there now, will be added')} names={preview.new} trans={trans} />
      <Names title={trans.__('Not kept with the work (large files of the course)')} names={preview.not_stored} trans={trans} />
      {!nothing && <Names title={trans.__('Stay as they are')} names={preview.kept} trans={trans} />}
      {!nothing && (
        <p>
          {shared
            ? trans.__('Nothing is removed. Your files as they are now are saved first, and come back when you go back to them.')
            : trans.__('Nothing is removed. Everything as it is now is saved first, and can be brought back by Undo.')}
        </p>
      )}
    </>
  );
}

function Names({ title, names, trans }: { title: string; names: string[]; trans: TranslationBundle }): JSX.Element | null {
  if (!names.length) {
    return null;
  }
  return (
    <details className="dm-Folded" open={names.length <= 8}>
      <summary>
        {title} ({names.length})
      </summary>
      <ul tabIndex={names.length > 8 ? 0 : undefined} aria-label={title}>
        {names.slice(0, MOST_SHOWN).map(name => (
          <li key={name}>{name}</li>
        ))}
        {names.length > MOST_SHOWN && <li>{trans.__('and %1 more', names.length - MOST_SHOWN)}</li>}
      </ul>
    </details>
  );
}
