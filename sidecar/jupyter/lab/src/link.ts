/** Links that open a session: the key after the `#` of the address, and the key that this browser remembers. */

import { PageConfig } from '@jupyterlab/coreutils';

const NAME = 'datamount';
const KEY = /^dm[ks]_[A-Za-z0-9_-]{43}$/;
const STORED = 'datamount:work-key:';
const EARLIER = 'datamount:earlier-keys:';
const MOST_EARLIER = 20;

/** Stands in the query of links: what is after the `#` does not outlive a form to sign in, the query does. */
const MARK = `${NAME}=link`;

/**
 * The key with which this page was opened, taken out of the address before Jupyter looks at it: neither a bookmark
 * nor what the student copies from the address bar shall hold it. Empty where a link came here without its key, or
 * with half of it; null where no link did.
 */
export const arrived = take();

function take(): string | null {
  const { pathname, search, hash } = window.location;
  const asked = search.slice(1).split('&');
  const said = hash.slice(1).split('&');
  const mine = said.find(part => part.startsWith(`${NAME}=`));
  if (mine === undefined && !asked.includes(MARK)) {
    return null;
  }
  const query = asked.filter(part => part !== MARK).join('&');
  const rest = said.filter(part => part !== mine).join('&');
  window.history.replaceState(window.history.state, '', pathname + (query && `?${query}`) + (rest && `#${rest}`));
  const key = mine?.slice(NAME.length + 1) ?? '';
  return KEY.test(key) ? key : '';
}

export function isShare(key: string): boolean {
  return key.startsWith('dms_');
}

/** Where a key opens a session of this hub, for where the hub's controller does not know. */
export function ofThisHub(key: string): string | null {
  const hub = PageConfig.getOption('hubPrefix');
  if (!hub) {
    return null;
  }
  const host = PageConfig.getOption('hubHost') || window.location.origin;
  return `${host}${hub.replace(/\/*$/, '/')}user-redirect/lab?${MARK}#${NAME}=${key}`;
}

/** A key that another one has followed, and when. */
export interface IEarlier {
  key: string;
  until: string;
}

/**
 * Remember the key of a course in this browser, so that its next anonymous session can offer it. The key that was
 * remembered until then is kept too: for work that was begun without looking at the earlier one, it may be nowhere else.
 */
export function keep(course: string, key: string): void {
  try {
    const last = kept(course);
    if (last && last !== key) {
      const others = earlier(course, key).filter(other => other.key !== last);
      const all = [{ key: last, until: new Date().toISOString() }, ...others].slice(0, MOST_EARLIER);
      window.localStorage.setItem(EARLIER + course, JSON.stringify(all));
    }
    window.localStorage.setItem(STORED + course, key);
  } catch (error) {
    // A browser that keeps nothing; the student still can copy it.
    console.debug('datamount', error);
  }
}

export function kept(course: string): string {
  try {
    return window.localStorage.getItem(STORED + course) ?? '';
  } catch (error) {
    return '';
  }
}

/** Other work in a course than that under `key`, which this browser remembers; the latest first. */
export function earlier(course: string, key: string): IEarlier[] {
  try {
    const found: IEarlier[] = JSON.parse(window.localStorage.getItem(EARLIER + course) ?? '[]');
    return found.filter(other => KEY.test(other.key) && !isShare(other.key) && other.key !== key);
  } catch (error) {
    return [];
  }
}
