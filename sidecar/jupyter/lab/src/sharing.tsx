/** Coming back to this work without an account, and showing a version to somebody: only where the store can. */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IGivenShare, IResumeKey, IShare } from './api';
import type { Actions } from './commands';
import { earlier, kept, ofThisHub } from './link';
import { Copy, Panel } from './panel';
import { useSignal } from './react';
import { moment, reason } from './words';

const DAYS = [1, 7, 14, 30];

interface IProps {
  actions: Actions;
  panel: Panel;
}

interface IPasteProps {
  label: string;
  initial?: string;
  /** Of the keys that are good here. */
  pattern: RegExp;
  actions: Actions;
}

export function Sharing({ actions, panel }: IProps): JSX.Element | null {
  const { model, resumption } = actions;
  useSignal(resumption.changed);
  const { found } = resumption;
  if (model.link !== 'connected' || model.readOnly || !found || found.kind === 'store') {
    return null;
  }
  return (
    <>
      {found.kind === 'work-key' && <Resume resume={found} actions={actions} />}
      <Links actions={actions} panel={panel} />
      {(found.kind === 'user' || found.key) && <Look actions={actions} />}
    </>
  );
}

/** The link to come back with; before the first save, a place for the key of earlier work. */
function Resume({ resume, actions }: { resume: IResumeKey; actions: Actions }): JSX.Element {
  const { trans, model } = actions;
  const course = model.status?.save.course ?? '';
  const known = resume.key ? '' : kept(course);
  const others = earlier(course, resume.key ?? known);
  const link = resume.key && (resume.link ?? ofThisHub(resume.key));
  return (
    <section aria-label={trans.__('Come back later')}>
      <h2>{trans.__('Come back later')}</h2>
      {link && (
        <p>
          {trans.__('This link starts a new session that offers your work. Keep it like a password: whoever has it can read and change your work.')}{' '}
          <Copy text={link} label={trans.__('Copy the link to your work')} trans={trans} />
        </p>
      )}
      {resume.key && (
        <p>
          {link
            ? trans.__('Or paste the key into the history panel of another session:')
            : trans.__('With this key you go on with your work in another session. Keep it like a password.')}{' '}
          <code>{`${resume.key.slice(0, 8)}…`}</code>{' '}
          <Copy text={resume.key} label={trans.__('Copy the key of your work')} trans={trans} />
        </p>
      )}
      {!resume.key && (
        <Paste
          label={
            known
              ? trans.__('This browser has a key of earlier work in this course')
              : trans.__('Key or link of earlier work, or of work that was shared')
          }
          initial={known}
          pattern={/dm[ks]_[A-Za-z0-9_-]{43}/}
          actions={actions}
        />
      )}
      {others.length > 0 && (
        <>
          <p id="dm-Earlier">{trans.__('This browser remembers other work of yours in this course:')}</p>
          <ul aria-labelledby="dm-Earlier">
            {others.map(({ key, until }) => (
              <li key={key} className="dm-Row">
                <span className="dm-File">{trans.__('Until %1', moment(until))}</span>
                <button
                  type="button"
                  className="dm-Button"
                  disabled={model.busy}
                  onClick={() => void actions.offer(key)}
                >
                  {trans.__('Show what it holds')}
                </button>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

/** For who has begun work of their own: to look at that of others. Before, the place for keys takes such links too. */
function Look({ actions }: { actions: Actions }): JSX.Element {
  const { trans } = actions;
  return (
    <section aria-label={trans.__('Look at shared work')}>
      <h2>{trans.__('Look at shared work')}</h2>
      <Paste label={trans.__('Link that somebody gave you')} pattern={/dms_[A-Za-z0-9_-]{43}/} actions={actions} />
    </section>
  );
}

/** A field for a link or key that was copied: a sign-in on the way may have lost what its link said. */
function Paste({ label, initial = '', pattern, actions }: IPasteProps): JSX.Element {
  const { trans, model } = actions;
  const [text, setText] = React.useState(initial);
  const go = async (event: React.FormEvent) => {
    event.preventDefault();
    const key = pattern.exec(text)?.[0];
    if (!key) {
      actions.tell('warning', trans.__('There is no such key in this text. Copy the whole of the link.'));
    } else if (await actions.offer(key)) {
      setText('');
    }
  };
  return (
    <form className="dm-Form" onSubmit={event => void go(event)}>
      <label>
        {label}
        <input
          className="dm-Input"
          type="password"
          autoComplete="off"
          value={text}
          onChange={event => setText(event.target.value)}
          data-lm-suppress-shortcuts="true"
        />
      </label>
      <button type="submit" className="dm-Button" disabled={!text.trim() || model.busy}>
        {trans.__('Show what it holds')}
      </button>
    </form>
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
        {given && <Given given={given} trans={trans} />}
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

/** A new link, the one time that it is shown: to look at it in a session, to download it, or the bare key. */
function Given({ given, trans }: { given: IGivenShare; trans: TranslationBundle }): JSX.Element {
  const session = given.session_link ?? ofThisHub(given.secret);
  const shown: [string, string, string][] = [];
  if (session) {
    shown.push([trans.__('To look at in a session:'), session, trans.__('Copy the link to look at')]);
  }
  if (given.link) {
    shown.push([trans.__('To download:'), given.link, trans.__('Copy the link to download')]);
  }
  if (!shown.length) {
    shown.push([trans.__('To paste into a session of this course:'), given.secret, trans.__('Copy the key')]);
  }
  return (
    <div className="dm-Notice">
      <p>{trans.__('Copy it now: it is not shown again.')}</p>
      {shown.map(([title, text, label]) => (
        <p key={title}>
          {title} <code>{text}</code> <Copy text={text} label={label} trans={trans} />
        </p>
      ))}
    </div>
  );
}
