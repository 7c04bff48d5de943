/** The differences of one file between two versions: notebooks by cell, texts by line. */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { Client, IDifference } from './api';
import type { Actions } from './commands';
import { ICell, ILine, compareNotebooks, compareText, shorten } from './compare';
import { reason, size } from './words';

/** Larger files are not compared here: they would hold up the browser. */
const MOST_BYTES = 3_000_000;

interface IProps {
  change: IDifference;
  version: string;
  /** The other version; empty: nothing. */
  against: string;
  actions: Actions;
}

interface IFound {
  cells?: ICell[];
  lines?: ILine[];
  /** Why there is nothing to show. */
  text?: string;
}

export function FileDiff({ change, version, against, actions }: IProps): JSX.Element {
  const { model, trans } = actions;
  const [found, setFound] = React.useState<IFound | null>(null);
  React.useEffect(() => {
    let here = true;
    compare(model.client, change, version, against, trans).then(
      result => here && setFound(result),
      error => here && setFound({ text: reason(error, trans) })
    );
    return () => {
      here = false;
    };
  }, [change.path, version, against]);
  if (!found) {
    return <p>{trans.__('Comparing …')}</p>;
  }
  return (
    <div className="dm-Diff" role="region" aria-label={trans.__('Differences in %1', change.path)} tabIndex={0}>
      {found.text && <p>{found.text}</p>}
      {found.lines && <Lines lines={found.lines} trans={trans} />}
      {found.cells?.map(cell => (
        <div key={`${cell.kind} ${cell.number}`} className="dm-Diff-cell">
          <h4>{heading(cell, trans)}</h4>
          <Lines lines={cell.lines} trans={trans} />
        </div>
      ))}
      {found.cells?.length === 0 && <p>{trans.__('All cells are the same; only counters or metadata differ.')}</p>}
    </div>
  );
}

function heading(cell: ICell, trans: TranslationBundle): string {
  switch (cell.kind) {
    case 'added':
      return trans.__('Cell %1 (%2): added', cell.number, cell.type);
    case 'removed':
      return trans.__('Cell %1 (%2): removed', cell.number, cell.type);
    case 'changed':
      return trans.__('Cell %1 (%2): changed', cell.number, cell.type);
    case 'outputs':
      return trans.__('Cell %1 (%2): only its output differs', cell.number, cell.type);
  }
}

function Lines({ lines, trans }: { lines: ILine[]; trans: TranslationBundle }): JSX.Element | null {
  if (!lines.length) {
    return null;
  }
  const words = { '-': trans.__('removed: '), '+': trans.__('added: '), ' ': '' };
  return (
    <pre>
      {shorten(lines).map((line, at) =>
        line ? (
          <div key={at} data-sign={line.sign}>
            <span aria-hidden="true">{line.sign} </span>
            {words[line.sign] && <span className="dm-Hidden">{words[line.sign]}</span>}
            {line.text}
          </div>
        ) : (
          <div key={at} className="dm-Diff-gap">
            ⋯
          </div>
        )
      )}
    </pre>
  );
}

async function compare(
  client: Client,
  change: IDifference,
  version: string,
  against: string,
  trans: TranslationBundle
): Promise<IFound> {
  if (Math.max(change.before ?? 0, change.after ?? 0) > MOST_BYTES) {
    const sizes = [change.before, change.after].map(bytes => (bytes === null ? '–' : size(bytes)));
    return { text: trans.__('Too large to compare here (%1 before, %2 after).', sizes[0], sizes[1]) };
  }
  const [before, after] = await Promise.all([
    change.before === null || !against ? '' : client.text(against, change.path),
    change.after === null ? '' : client.text(version, change.path)
  ]);
  if (before.includes('\0') || after.includes('\0')) {
    return { text: trans.__('Not a text: %1 bytes before, %2 after.', change.before ?? 0, change.after ?? 0) };
  }
  if (change.path.endsWith('.ipynb') && before && after) {
    try {
      return { cells: compareNotebooks(before, after) };
    } catch (error) {
      // Not a notebook after all; its lines still tell.
      console.debug('datamount', error);
    }
  }
  return { lines: compareText(before, after) };
}
