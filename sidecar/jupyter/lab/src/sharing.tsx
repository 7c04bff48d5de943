/** Coming back to this work without an account, and showing a version to somebody: only where the store can. */

import React from 'react';

import type { IGivenShare, IResumeKey, IShare } from './api';
import type { Actions } from './commands';
import { Copy, Panel } from './panel';
import { moment, reason } from './words';

const DAYS = [1, 7, 14, 30];

interface IProps {
  actions: Actions;
  panel: Panel;
}

export function Sharing({ actions, panel }: IProps): JSX.Element | null {
  const { model } = actions;
  const [resume, setResume] = React.useState<IResumeKey | null>(null);
  const course = model.status?.save.course ?? '';
  React.useEffect(() => {
    // A store of one's own answers "store"; whatever else goes wrong, there is nothing to offer.
    const load = () => {
      if (panel.isVisible && model.link === 'connected') {
        model.client.resumeKey().then(found => {
          keep(course, found.key);
          setResume(found);
        }, console.debug);
      }
    };
    load();
    model.saved.connect(load);
    panel.shown.connect(load);
    return () => {
      model.saved.disconnect(load);
      panel.shown.disconnect(load);
    };
  }, [model.link, course]);
  if (!resume || resume.kind === 'store') {
    return null;
  }
  return (
    <>
      {resume.kind === 'work-key' && <Resume resume={resume} course={course} actions={actions} />}
      <Links actions={actions} panel={panel} />
    </>
  );
}

/** The key of this work to keep; before the first save, a place for the key of earlier work. */
function Resume({ resume, course, actions }: { resume: IResumeKey; course: string; actions: Actions }): JSX.Element {
  const { trans } = actions;
  const known = resume.key ? '' : kept(course);
  const [key, setKey] = React.useState(known);
  const go = async (event: React.FormEvent) => {
    event.preventDefault();
    if (await actions.resume(key.trim())) {
      setKey('');
    }
  };
  return (
    <section aria-label={trans.__('Come back later')}>
      <h2>{trans.__('Come back later')}</h2>
      {resume.key && (
        <p>
          {trans.__('With this key you go on with your work in another session. Keep it like a password.')}{' '}
          <code>{`${resume.key.slice(0, 8)}…`}</code>{' '}
          <Copy text={resume.key} label={trans.__('Copy the key of your work')} trans={trans} />
        </p>
      )}
      {!resume.key && (
        <form className="dm-Form" onSubmit={event => void go(event)}>
          <label>
            {known
              ? trans.__('This browser has a key of earlier work in this course')
              : trans.__('Key of earlier work in this course')}
            <input
              className="dm-Input"
              type="password"
              autoComplete="off"
              value={key}
              onChange={event => setKey(event.target.value)}
              data-lm-suppress-shortcuts="true"
            />
          </label>
          <button type="submit" className="dm-Button" disabled={!key.trim() || actions.model.busy}>
            {trans.__('Go on with it')}
          </button>
        </form>
      )}
    </section>
  );
}

/** Read-only links: make one, see which are valid, end one. */
function Links({ actions, panel }: IProps): JSX.Element {
  const { model, trans } = actions;
  const [links, setLinks] = React.useState<IShare[]>([]);
  const [given, setGiven] = React.useState<IGivenShare | null>(null);
  const [days, setDays] = React.useState(DAYS[1]);
  const [fault, setFault] = React.useState('');
  const attempt = async (work: () => Promise<void>) => {
    setFault('');
    try {
      await work();
      setLinks(await model.client.shares());
    } catch (error) {
      setFault(reason(error, trans));
    }
  };
  React.useEffect(() => {
    void attempt(async () => undefined);
  }, [panel]);
  const make = (event: React.FormEvent) => {
    event.preventDefault();
    void attempt(async () => setGiven(await model.client.share('latest', days)));
  };
  return (
    <section aria-label={trans.__('Show your work')}>
      <h2>{trans.__('Show your work')}</h2>
      <form className="dm-Form" onSubmit={make}>
        <label>
          {trans.__('A read-only link to the last saved version, valid for')}
          <select className="dm-Input" value={days} onChange={event => setDays(Number(event.target.value))}>
            {DAYS.map(number => (
              <option key={number} value={number}>
                {trans._n('%1 day', '%1 days', number)}
              </option>
            ))}
          </select>
        </label>
        <button type="submit" className="dm-Button" disabled={!model.status?.save.last}>
          {trans.__('Make a link')}
        </button>
      </form>
      {fault && (
        <p className="dm-Fault" role="alert">
          {fault}
        </p>
      )}
      <div role="status">
        {given && (
          <p className="dm-Notice">
            {trans.__('Copy it now: it is not shown again.')} <code>{given.link ?? given.secret}</code>{' '}
            <Copy text={given.link ?? given.secret} label={trans.__('Copy the link')} trans={trans} />
          </p>
        )}
      </div>
      {links.length > 0 && (
        <ul aria-label={trans.__('Links that are valid')}>
          {links.map(link => (
            <li key={link.id} className="dm-Row">
              <span className="dm-File">
                {trans.__('Made %1, valid until %2', moment(link.created), moment(link.expires))}
              </span>
              <button
                type="button"
                className="dm-Button"
                aria-label={trans.__('End the link made %1', moment(link.created))}
                onClick={() => void attempt(() => model.client.revoke(link.id))}
              >
                {trans.__('End')}
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

const STORED = 'datamount:work-key:';

/** Remember the key of a course in this browser, so that its next anonymous session can offer it. */
function keep(course: string, key: string | null): void {
  try {
    if (key) {
      window.localStorage.setItem(STORED + course, key);
    }
  } catch (error) {
    // A browser that keeps nothing; the student still can copy it.
    console.debug('datamount', error);
  }
}

function kept(course: string): string {
  try {
    return window.localStorage.getItem(STORED + course) ?? '';
  } catch (error) {
    return '';
  }
}
