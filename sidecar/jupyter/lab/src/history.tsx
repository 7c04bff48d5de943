/** The History panel: is it saved, what was saved when, and bringing it back. */

import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import React from 'react';

import type { ISnapshot, IStatus } from './api';
import type { Actions } from './commands';
import { SIGNS } from './icons';
import { Markdown } from './markdown';
import { Folded, Panel } from './panel';
import { useModel, useSignal } from './react';
import { Sharing } from './sharing';
import { Version } from './version';
import { briefly, day, describe, explain, moment, reason, taken } from './words';

/** So many at first; each further look shows twice as many. */
const FIRST_VERSIONS = 100;
/** The API gives no more. */
const MOST_VERSIONS = 10000;

interface IProps {
  actions: Actions;
  panel: Panel;
  rendermime: IRenderMimeRegistry | null;
}

export function History({ actions, panel, rendermime }: IProps): JSX.Element {
  const { model, trans } = actions;
  useModel(model);
  const { versions, more, fault } = useVersions(actions, panel);
  return (
    <>
      <h2>{trans.__('Saved work')}</h2>
      <Now actions={actions} />
      <Shown actions={actions} />
      <Notice actions={actions} />
      <Merged actions={actions} rendermime={rendermime} />
      {(versions || fault) && <h2>{trans.__('History')}</h2>}
      {fault && (
        <p className="dm-Fault" role="alert">
          {fault}
        </p>
      )}
      {versions?.length === 0 && <p>{trans.__('Nothing has been saved yet.')}</p>}
      {byDay(versions ?? []).map(group => (
        <section key={group[0].id} aria-label={day(group[0].time, trans)}>
          <h3>{day(group[0].time, trans)}</h3>
          <ul className="dm-Versions">
            {group.map(version => (
              <Version key={version.id} version={version} versions={versions!} actions={actions} />
            ))}
          </ul>
        </section>
      ))}
      {more && (
        <button type="button" className="dm-Button" onClick={more}>
          {trans.__('Show older versions')}
        </button>
      )}
      <Sharing actions={actions} panel={panel} />
    </>
  );
}

/** The state in full, and Save with a note. */
function Now({ actions }: { actions: Actions }): JSX.Element {
  const { model, trans } = actions;
  const [note, setNote] = React.useState('');
  const state = describe(model, trans);
  const Sign = SIGNS[state.mood].react;
  const save = async (event: React.FormEvent) => {
    event.preventDefault();
    if (await actions.save(note)) {
      setNote('');
    }
  };
  return (
    <>
      <p className="dm-Now" data-mood={state.mood}>
        <Sign tag="span" className="dm-Icon" />
        <span>{state.long || state.short}</span>
      </p>
      {model.link === 'connected' && !model.readOnly && (
        <form className="dm-Form" onSubmit={event => void save(event)}>
          <label>
            {trans.__('Note for this version (optional)')}
            <input
              className="dm-Input"
              value={note}
              maxLength={2000}
              onChange={event => setNote(event.target.value)}
              data-lm-suppress-shortcuts="true"
            />
          </label>
          <button type="submit" className="dm-Button dm-mod-main" disabled={model.busy}>
            {trans.__('Save now')}
          </button>
        </form>
      )}
      {model.status && !model.readOnly && <Lists status={model.status} actions={actions} />}
    </>
  );
}

/** That somebody's version is shown, and the two ways out. */
function Shown({ actions }: { actions: Actions }): JSX.Element | null {
  const { model, trans } = actions;
  const share = model.status?.save.share;
  if (!share) {
    return null;
  }
  return (
    <section className="dm-Notice" aria-label={trans.__('Read-only share')}>
      <p>
        {share.message && trans.__('Its note: “%1”.', share.message)}{' '}
        {trans.__('Look at everything, run it, try changes: your own files are kept aside, as a version in the history.')}
      </p>
      <button type="button" className="dm-Button" disabled={model.busy} onClick={() => void actions.endShow(false)}>
        {trans.__('Back to my own files')}
      </button>
      <button type="button" className="dm-Button" disabled={model.busy} onClick={() => void actions.endShow(true)}>
        {trans.__('Keep it as mine')}
      </button>
    </section>
  );
}

function Lists({ status, actions }: { status: IStatus; actions: Actions }): JSX.Element {
  const { trans, model } = actions;
  const { last, changed, changed_files, error, quota } = status.save;
  const ends = status.session?.ends_at;
  const skipped = (last?.skipped ?? []).map(item => `${item.path}: ${item.reason}`);
  const more = changed_files - changed.length;
  const files = more > 0 ? [...changed, trans.__('and %1 more', more)] : changed;
  return (
    <>
      {ends && (
        <p className={model.minutesLeft() === null ? undefined : 'dm-Warning'}>
          {trans.__('This session ends at %1 at the latest.', moment(ends))}
        </p>
      )}
      {quota?.near && (
        <p className="dm-Warning">
          {taken(quota, trans)}{' '}
          {trans.__('What does not fit is left out of a save and named; notebooks and small files come first.')}
        </p>
      )}
      {(last?.warnings ?? []).map(text => (
        <p className="dm-Warning" key={text}>
          {text}
        </p>
      ))}
      {error && <Folded title={trans.__('What went wrong, for who can mend it')} items={[explain(error, trans)]} />}
      <Folded title={trans.__('Open documents with unsaved edits (%1)', model.unsaved.length)} items={model.unsaved} />
      <Folded title={trans.__('Changed since the last save (%1)', changed_files)} items={files} />
      <Folded title={trans.__('Not part of the last save (%1)', skipped.length)} items={skipped} />
    </>
  );
}

/** What this launch merged, where a newer course met saved work: a line, and the report on demand. */
function Merged({ actions, rendermime }: Pick<IProps, 'actions' | 'rendermime'>): JSX.Element | null {
  const { model, trans } = actions;
  const merge = model.status?.merge;
  const [report, setReport] = React.useState('');
  if (!merge) {
    return null;
  }
  const load = async () => {
    try {
      setReport((await model.client.merge()).markdown ?? '');
    } catch (error) {
      setReport(reason(error, trans));
    }
  };
  return (
    <section className={merge.to_look_at ? 'dm-Warning' : 'dm-Notice'} aria-label={trans.__('What this launch merged')}>
      <p>{merge.summary}</p>
      <details className="dm-Folded" onToggle={event => event.currentTarget.open && !report && void load()}>
        <summary>{trans.__('The report')}</summary>
        {report && <Markdown text={report} rendermime={rendermime} />}
      </details>
    </section>
  );
}

/** What the last restore did, with Undo. */
function Notice({ actions }: { actions: Actions }): JSX.Element {
  const { trans } = actions;
  useSignal(actions.noticed);
  const { notice } = actions;
  return (
    <div role="status" className={notice ? 'dm-Notice' : undefined}>
      {notice && (
        <>
          <p>{notice.text}</p>
          <Folded title={trans.__('Files (%1)', notice.files.length)} items={notice.files} />
          {notice.undo && (
            <button type="button" className="dm-Button" onClick={() => void actions.undo()}>
              {trans.__('Undo')}
            </button>
          )}
          <button type="button" className="dm-Button" onClick={() => actions.dismiss()}>
            {trans.__('Dismiss')}
          </button>
        </>
      )}
    </div>
  );
}

interface IVersions {
  /** The newest; null until they are known. */
  versions: ISnapshot[] | null;
  /** Shows older ones, where there are any. */
  more: (() => void) | null;
  fault: string;
}

/** The versions, read again when one was saved, and when the panel comes into view. */
function useVersions(actions: Actions, panel: Panel): IVersions {
  const { model, trans } = actions;
  const [versions, setVersions] = React.useState<ISnapshot[] | null>(null);
  const [fault, setFault] = React.useState('');
  const [limit, setLimit] = React.useState(FIRST_VERSIONS);
  const connected = model.link === 'connected';
  React.useEffect(() => {
    let asked = 0;
    const load = async () => {
      if (!panel.isVisible || !connected) {
        return;
      }
      const number = ++asked;
      try {
        const found = await model.client.snapshots(Math.min(limit + 1, MOST_VERSIONS));
        if (number === asked) {
          setVersions(found);
          setFault('');
        }
      } catch (error) {
        if (number === asked) {
          setFault(trans.__('The history cannot be read now: %1', briefly(error, trans)));
        }
      }
    };
    const again = () => void load();
    again();
    model.saved.connect(again);
    panel.shown.connect(again);
    return () => {
      asked = -1;
      model.saved.disconnect(again);
      panel.shown.disconnect(again);
    };
  }, [connected, limit]);
  const more = versions && versions.length > limit ? () => setLimit(limit * 2) : null;
  return { versions: versions && versions.slice(0, limit), more, fault };
}

function byDay(versions: ISnapshot[]): ISnapshot[][] {
  const groups: ISnapshot[][] = [];
  for (const version of versions) {
    const group = groups[groups.length - 1];
    if (group && sameDay(group[0], version)) {
      group.push(version);
    } else {
      groups.push([version]);
    }
  }
  return groups;
}

function sameDay(one: ISnapshot, other: ISnapshot): boolean {
  return new Date(one.time).toDateString() === new Date(other.time).toDateString();
}

