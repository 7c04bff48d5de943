/** The sentences that the student reads. */

import type { TranslationBundle } from '@jupyterlab/translation';

import { ApiError, IProblem, IQuota, ISnapshot } from './api';
import type { SessionModel } from './model';

export type Mood = 'good' | 'pending' | 'busy' | 'bad' | 'none';

/** `short` fits the top bar, `long` says everything. */
export interface IState {
  mood: Mood;
  short: string;
  long: string;
}

/** The state of the student's work in words. "Saved" is said only of what the sidecar reported as durable. */
export function describe(model: SessionModel, trans: TranslationBundle): IState {
  if (model.link === 'asking') {
    return same('none', trans.__('Asking whether your work is saved …'));
  }
  if (model.link === 'signed-out') {
    const short = trans.__('Signed out');
    return { mood: 'bad', short, long: trans.__('You are signed out of Jupyter. Sign in again in another tab, and keep this one open: edits that are not in a file yet are only here.') };
  }
  if (model.link === 'lost') {
    const short = trans.__('Connection lost');
    return { mood: 'bad', short, long: trans.__('The Jupyter server does not answer. Keep this tab open: edits that are not in a file yet are only here.') };
  }
  if (model.link === 'absent' || !model.status) {
    const long = model.problem ? explain(model.problem, trans) : '';
    return { mood: 'none', short: trans.__('Saving is not available'), long };
  }
  const save = model.status.save;
  const last = save.last ? trans.__('Saved to storage %1', moment(save.last.time)) : '';
  if (save.state === 'saving' || model.busy) {
    return same('busy', save.restoring ? trans.__('Restoring …') : trans.__('Saving …'));
  }
  if (save.share) {
    const long = trans.__('Read-only share: you see the version of %1 that somebody shared. Nothing is saved here.', moment(save.share.time));
    return { mood: 'none', short: trans.__('Read-only share'), long };
  }
  switch (save.state) {
    case 'failed': {
      if (!save.autosave && !save.last) {
        return { mood: 'none', short: trans.__('Saving is not available'), long: explain(save.error!, trans) };
      }
      const safe = trans.__('It is tried again; your files are safe in this session.');
      const why = unreachable(save.error!) ? trans.__('the storage does not answer.') : explain(save.error!, trans);
      const long = [trans.__('Not saved:'), why, safe, unreachable(save.error!) && who(save.error!, trans)].filter(Boolean).join(' ');
      const short = unreachable(save.error!) ? trans.__('Not saved: storage unreachable, retrying') : trans.__('Not saved, retrying');
      return { mood: 'bad', short, long };
    }
  }
  if (model.unsaved.length) {
    const short = trans._n('Unsaved edits in %1 open document', 'Unsaved edits in %1 open documents', model.unsaved.length);
    return { mood: 'pending', short, long: [short + '.', last && last + '.'].filter(Boolean).join(' ') };
  }
  if (save.state === 'changed') {
    const short = save.last
      ? trans._n('%1 file changed since %2', '%1 files changed since %2', save.changed_files, moment(save.last.time))
      : trans._n('%1 file not saved yet', '%1 files not saved yet', save.changed_files);
    const soon = save.autosave ? trans.__('It is saved by itself soon.') : '';
    const since = save.last
      ? trans._n('%1 file changed since.', '%1 files changed since.', save.changed_files)
      : `${short}.`;
    return { mood: 'pending', short, long: [last && last + '.', since, soon].filter(Boolean).join(' ') };
  }
  if (model.written) {
    const looking = trans.__('Looking for changes …');
    return { mood: 'pending', short: looking, long: [last && last + '.', looking].filter(Boolean).join(' ') };
  }
  const large = save.last?.too_large?.length ?? 0;
  if (save.state === 'saved' && large) {
    const short = trans._n('%2, without %1 file', '%2, without %1 files', large, last);
    const why = trans.__('There is no room for: %1', save.last!.too_large!.slice(0, 5).join(', ') + (large > 5 ? ' …' : ''));
    return { mood: 'bad', short, long: `${short}. ${why}` };
  }
  if (save.state === 'saved') {
    return { mood: 'good', short: last, long: trans.__('%1. Nothing has changed since.', last) };
  }
  return same('none', trans.__('Nothing to save yet'));
}

/** How much of the tightest limit is taken. */
export function taken({ used, limit, per }: IQuota, trans: TranslationBundle): string {
  return per === 'version'
    ? trans.__('This version takes %1 of the %2 that the course allows.', size(used), size(limit))
    : trans.__('Your saved work takes %1 of the %2 that you have here, all versions together.', size(used), size(limit));
}

function same(mood: Mood, text: string): IState {
  return { mood, short: text, long: text };
}

function unreachable(problem: IProblem): boolean {
  return problem.status === 503 || problem.status === 502 || problem.status === 504;
}

function who(problem: IProblem, trans: TranslationBundle): string {
  return problem.who && problem.who !== 'you' ? trans.__('Who can mend it: %1.', problem.who) : '';
}

/** What happened, what to do and who can do it. */
export function explain(problem: IProblem, trans: TranslationBundle): string {
  const { detail, hint } = problem;
  return [detail.charAt(0).toUpperCase() + detail.slice(1), hint, who(problem, trans)].filter(Boolean).join(' ');
}

/** Any error as a sentence. */
export function reason(error: unknown, trans: TranslationBundle): string {
  return error instanceof ApiError ? explain(error.problem, trans) : error instanceof Error ? error.message : String(error);
}

/** As `reason`, without what a storage that is away says of itself: the panel has that. */
export function briefly(error: unknown, trans: TranslationBundle): string {
  const away = error instanceof ApiError && unreachable(error.problem);
  return away ? trans.__('the storage does not answer.') : reason(error, trans);
}

/** "14:03" today, else with its date. */
export function moment(text: string): string {
  const then = new Date(text);
  const today = then.toDateString() === new Date().toDateString();
  return today ? clock(text) : then.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}

export function clock(text: string): string {
  return new Date(text).toLocaleTimeString([], { timeStyle: 'short' });
}

/** The student's own time as part of a file's name: "2026-11-22-1403". */
export function stamp(text: string): string {
  const then = new Date(text);
  const here = new Date(then.getTime() - then.getTimezoneOffset() * 60000).toISOString();
  return here.slice(0, 16).replace('T', '-').replace(':', '');
}

/** The heading of a day in the history. */
export function day(text: string, trans: TranslationBundle): string {
  const then = new Date(text);
  const now = new Date();
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  const date = then.toLocaleDateString([], { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
  if (then.toDateString() === now.toDateString()) {
    return trans.__('Today, %1', date);
  }
  return then.toDateString() === yesterday.toDateString() ? trans.__('Yesterday, %1', date) : date;
}

/** A version's note. Notes of restores name another version by id; students know it by its time. */
export function note(version: ISnapshot, versions: ISnapshot[]): string {
  return version.message.replace(/\b\d{8,}-[0-9a-f]{8,}\b/, id => {
    const named = versions.find(other => other.id === id);
    return named ? moment(named.time) : id;
  });
}

/** Why a version was made. */
export function cause(reason: string, trans: TranslationBundle): string {
  switch (reason) {
    case 'manual':
      return trans.__('saved by hand');
    case 'auto':
      return trans.__('saved by itself');
    case 'exit':
      return trans.__('saved at the end of a session');
    default:
      return reason;
  }
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export function size(bytes: number): string {
  let unit = 0;
  while (bytes >= 1000 && unit < UNITS.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}
