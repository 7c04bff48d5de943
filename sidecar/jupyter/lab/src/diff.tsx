/** The differences of one file between two versions: notebooks by cell, texts by line. */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { ICellDifference, IDifference, IFileDifference } from './api';
import type { Actions } from './commands';
import { reason, size } from './words';

interface IProps {
  change: IDifference;
  version: string;
  /** The other version; empty: the one before. */
  against: string;
  actions: Actions;
}

export function FileDiff({ change, version, against, actions }: IProps): JSX.Element {
  const { model, trans } = actions;
  const [found, setFound] = React.useState<IFileDifference | null>(null);
  const [fault, setFault] = React.useState('');
  React.useEffect(() => {
    let here = true;
    model.client.fileDiff(version, change.path, against || undefined).then(
      result => here && setFound(result),
      error => here && setFault(reason(error, trans))
    );
    return () => {
      here = false;
    };
  }, [change.path, version, against]);
  if (fault || !found) {
    return <p role={fault ? 'alert' : undefined}>{fault || trans.__('Comparing …')}</p>;
  }
  return (
    <div className="dm-Diff" role="region" aria-label={trans.__('Differences in %1', change.path)} tabIndex={0}>
      {found.format === 'text' && <Lines lines={found.lines} trans={trans} />}
      {found.format === 'notebook' &&
        found.cells.map(cell => (
          <div key={`${cell.kind} ${cell.index}`} className="dm-Diff-cell">
            <h4>{heading(cell, trans)}</h4>
            <Lines lines={cellLines(cell)} trans={trans} />
          </div>
        ))}
      <p>{remark(found, trans)}</p>
    </div>
  );
}

function heading(cell: ICellDifference, trans: TranslationBundle): string {
  const number = cell.index + 1;
  const text = {
    added: trans.__('Cell %1 (%2): added', number, cell.cell_type),
    removed: trans.__('Cell %1 (%2): removed', number, cell.cell_type),
    changed: trans.__('Cell %1 (%2): changed', number, cell.cell_type),
    results: trans.__('Cell %1 (%2): only its output or settings differ', number, cell.cell_type)
  }[cell.kind];
  return cell.moved ? trans.__('%1, moved', text) : text;
}

function cellLines(cell: ICellDifference): string[] {
  switch (cell.kind) {
    case 'added':
      return (cell.after ?? '').split('\n').map(line => `+${line}`);
    case 'removed':
      return (cell.before ?? '').split('\n').map(line => `-${line}`);
    case 'changed':
      return cell.lines;
    case 'results':
      return [];
  }
}

/** Why no line is shown, where none is. */
function remark(found: IFileDifference, trans: TranslationBundle): string {
  const sizes = [found.before, found.after].map(bytes => (bytes === null ? '–' : size(bytes)));
  switch (found.format) {
    case 'large':
      return trans.__('Too large to compare here: %1 before, %2 after.', sizes[0], sizes[1]);
    case 'binary':
      return trans.__('Not a text: %1 before, %2 after.', sizes[0], sizes[1]);
    case 'notebook':
      return found.cells.length ? '' : trans.__('All cells are the same; only settings of the notebook differ.');
    case 'text':
      return found.lines.length ? '' : trans.__('The text is the same.');
  }
}

function Lines({ lines, trans }: { lines: string[]; trans: TranslationBundle }): JSX.Element | null {
  if (!lines.length) {
    return null;
  }
  const words: Record<string, string> = { '-': trans.__('removed: '), '+': trans.__('added: ') };
  return (
    <pre>
      {lines.map((line, at) =>
        line.startsWith('@@') ? (
          // Nothing is left out before the first line.
          !/^@@ -[01]\b/.test(line) && <div key={at}>⋯</div>
        ) : (
          <div key={at} data-sign={line[0]}>
            <span aria-hidden="true">{line[0]} </span>
            {words[line[0]] && <span className="dm-Hidden">{words[line[0]]}</span>}
            {line.slice(1)}
          </div>
        )
      )}
    </pre>
  );
}
