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
  const nothing = !preview.replaced.length && !preview.merged.length && !preview.new.length;
  return (
    <>
      {nothing && <p>{trans.__('All of that is in your folder exactly so already.')}</p>}
      <Names
        title={shared ? trans.__('Replaced by the shared ones') : trans.__('Replaced by what they were then')}
        names={preview.replaced}
        trans={trans}
      />
      <Names title={trans.__('Merged with what the course has changed since')} names={preview.merged} trans={trans} />
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

interface INames {
  title: string;
  names: string[];
  trans: TranslationBundle;
}

function Names({ title, names, trans }: INames): JSX.Element | null {
  if (!names.length) {
    return null;
  }
  const [own, gits] = withoutGit(names, name => name);
  return (
    <details className="dm-Folded" open={own.length <= 8}>
      <summary>
        {title} ({own.length || names.length})
      </summary>
      <ul tabIndex={own.length > 8 ? 0 : undefined} aria-label={title}>
        {own.slice(0, MOST_SHOWN).map(name => (
          <li key={name}>{name}</li>
        ))}
        {own.length > MOST_SHOWN && <li>{trans.__('and %1 more', own.length - MOST_SHOWN)}</li>}
        {gits > 0 && <li>{trans._n("and %1 of git's own files", "and %1 of git's own files", gits)}</li>}
      </ul>
    </details>
  );
}

/** Without what git keeps in `.git`, which no student looks at; how much that is. */
export function withoutGit<T>(items: T[], path: (item: T) => string): [T[], number] {
  const own = items.filter(item => path(item) !== '.git' && !path(item).startsWith('.git/'));
  return [own, items.length - own.length];
}
