/** One version in the history: what it changed, and bringing back all of it or chosen files. */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IDifference, ISnapshot, ISnapshotDetail } from './api';
import type { Actions } from './commands';
import { FileDiff } from './diff';
import { Folded, MOST_SHOWN } from './panel';
import { withoutGit } from './preview';
import { cause, clock, moment, note, reason, size } from './words';

interface IProps {
  version: ISnapshot;
  versions: ISnapshot[];
  actions: Actions;
}

export function Version({ version, versions, actions }: IProps): JSX.Element {
  const { trans } = actions;
  const [open, setOpen] = React.useState(false);
  const heading = [clock(version.time), cause(version.reason, trans)].join(', ');
  return (
    <li className="dm-Version" data-version={version.id}>
      <button type="button" className="dm-Version-head" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span className="dm-Version-when">{heading}</span>
        {version.message && <span className="dm-Version-message">{note(version, versions)}</span>}
        <span>
          {trans._n('%1 file', '%1 files', version.files)}, {size(version.bytes)}
          {version.author ? `, ${version.author}` : ''}
        </span>
      </button>
      {version.shrunk && (
        <p className="dm-Warning">
          {trans.__('Over half of the files of the version before are missing here.')}
        </p>
      )}
      {open && <Content version={version} versions={versions} actions={actions} />}
    </li>
  );
}

function Content({ version, versions, actions }: IProps): JSX.Element {
  const { model, trans } = actions;
  const [against, setAgainst] = React.useState('');
  const [changes, setChanges] = React.useState<IDifference[] | null>(null);
  const [detail, setDetail] = React.useState<ISnapshotDetail | null>(null);
  const [fault, setFault] = React.useState('');
  const [chosen, setChosen] = React.useState<ReadonlySet<string>>(new Set());
  React.useEffect(() => {
    let here = true;
    const fail = (error: unknown) => here && setFault(reason(error, trans));
    setChanges(null);
    setFault('');
    model.client.diff(version.id, against || undefined).then(found => here && setChanges(found), fail);
    return () => {
      here = false;
    };
  }, [version.id, against]);
  const all = async () => {
    try {
      setDetail(await model.client.snapshot(version.id));
    } catch (error) {
      setFault(reason(error, trans));
    }
  };
  const choose = (path: string) => {
    const next = new Set(chosen);
    if (!next.delete(path)) {
      next.add(path);
    }
    setChosen(next);
  };
  const [own, gits] = withoutGit(changes ?? [], change => change.path);
  const before = versions.find(other => other.id === version.parent);
  const others = versions.filter(other => other.id !== version.id && other !== before);
  return (
    <div className="dm-Version-content">
      <div className="dm-Row">
        <button type="button" className="dm-Button" disabled={model.readOnly} onClick={() => void actions.restore(version, [])}>
          {trans.__('Restore all')}
        </button>
        <button
          type="button"
          className="dm-Button"
          disabled={!chosen.size || model.readOnly}
          onClick={() => void actions.restore(version, [...chosen])}
        >
          {chosen.size
            ? trans._n('Restore %1 chosen file', 'Restore %1 chosen files', chosen.size)
            : trans.__('Restore chosen files')}
        </button>
        <button type="button" className="dm-Button" onClick={() => actions.download(version)}>
          {trans.__('Download as zip')}
        </button>
      </div>
      {versions.length > 1 && (
        <label>
          {trans.__('Compare with')}
          <select className="dm-Input" value={against} onChange={event => setAgainst(event.target.value)}>
            <option value="">{beforeIt(version, before, trans)}</option>
            {others.map(other => (
              <option key={other.id} value={other.id}>
                {[moment(other.time), note(other, versions) || cause(other.reason, trans)].join(', ')}
              </option>
            ))}
          </select>
        </label>
      )}
      {fault && (
        <p className="dm-Fault" role="alert">
          {fault}
        </p>
      )}
      {changes?.length === 0 && <p>{trans.__('No file differs.')}</p>}
      {own.length > 0 && (
        <ul className="dm-Files" aria-label={trans.__('Files that differ')}>
          {own.slice(0, MOST_SHOWN).map(change => (
            <Changed
              key={`${against} ${change.path}`}
              change={change}
              chosen={chosen.has(change.path)}
              choose={choose}
              version={version.id}
              against={against}
              actions={actions}
            />
          ))}
        </ul>
      )}
      {own.length > MOST_SHOWN && <p>{trans.__('and %1 more', own.length - MOST_SHOWN)}</p>}
      {gits > 0 && <p>{trans._n("and %1 of git's own files", "and %1 of git's own files", gits)}</p>}
      <details className="dm-Folded" onToggle={event => event.currentTarget.open && !detail && void all()}>
        <summary>{trans.__('All files of this version (%1)', version.files)}</summary>
        {detail && <Files detail={detail} chosen={chosen} choose={choose} trans={trans} />}
      </details>
      {version.skipped > 0 && detail && (
        <Folded
          title={trans.__('Left out of this version (%1)', detail.left_out.length)}
          items={detail.left_out.map(item => `${item.path}: ${item.reason}`)}
        />
      )}
    </div>
  );
}

/** What a version is compared with at first. The one that it was made from may have been thinned out since. */
function beforeIt(version: ISnapshot, before: ISnapshot | undefined, trans: TranslationBundle): string {
  if (!version.parent) {
    return trans.__('nothing (this is the first version)');
  }
  return before ? trans.__('the version before (%1)', moment(before.time)) : trans.__('the version before');
}

interface IFilesProps {
  detail: ISnapshotDetail;
  chosen: ReadonlySet<string>;
  choose: (path: string) => void;
  trans: TranslationBundle;
}

function Files({ detail, chosen, choose, trans }: IFilesProps): JSX.Element {
  const [filter, setFilter] = React.useState('');
  const found = detail.entries.filter(entry => entry.type !== 'folder' && entry.path.includes(filter));
  const [files, gits] = filter ? [found, 0] : withoutGit(found, entry => entry.path);
  return (
    <>
      {detail.entries.length > 20 && (
        <label>
          {trans.__('Show names with')}
          <input className="dm-Input" value={filter} onChange={event => setFilter(event.target.value)} />
        </label>
      )}
      <ul className="dm-Files" aria-label={trans.__('All files of this version')}>
        {files.slice(0, MOST_SHOWN).map(entry => (
          <li key={entry.path}>
            <label>
              <input
                type="checkbox"
                checked={chosen.has(entry.path)}
                disabled={!entry.stored}
                onChange={() => choose(entry.path)}
              />
              {entry.path}
            </label>{' '}
            ({size(entry.size)}
            {entry.stored ? '' : trans.__(', a large file of the course: not kept with your work')})
          </li>
        ))}
      </ul>
      {files.length > MOST_SHOWN && <p>{trans.__('and %1 more', files.length - MOST_SHOWN)}</p>}
      {gits > 0 && <p>{trans._n("and %1 of git's own files", "and %1 of git's own files", gits)}</p>}
    </>
  );
}

interface IChangedProps {
  change: IDifference;
  chosen: boolean;
  choose: (path: string) => void;
  version: string;
  against: string;
  actions: Actions;
}

function Changed({ change, chosen, choose, version, against, actions }: IChangedProps): JSX.Element {
  const { trans } = actions;
  const [open, setOpen] = React.useState(false);
  const kind = { added: trans.__('added'), removed: trans.__('removed'), changed: trans.__('changed') }[change.kind];
  return (
    <li>
      <div className="dm-Row">
        <label className="dm-File">
          <input
            type="checkbox"
            checked={chosen}
            disabled={change.kind === 'removed'}
            onChange={() => choose(change.path)}
          />
          {change.path}
        </label>
        <span className="dm-Kind">{kind}</span>
        <button
          type="button"
          className="dm-Button"
          aria-expanded={open}
          aria-label={trans.__('Differences in %1', change.path)}
          onClick={() => setOpen(!open)}
        >
          {trans.__('Differences')}
        </button>
      </div>
      {open && <FileDiff change={change} version={version} against={against} actions={actions} />}
    </li>
  );
}
