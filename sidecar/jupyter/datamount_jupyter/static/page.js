// The page of interfaces without the Lab extension: state, Save, history, data.
'use strict';

const meta = name => document.querySelector(`meta[name=${name}]`).content;
const api = meta('base') + 'datamount/api/v1/';
const byId = id => document.getElementById(id);

class Problem extends Error {}

const GONE = 'The Jupyter server does not answer.';

const KEY = /dm[ks]_[A-Za-z0-9_-]{43}/;
const SHARE = /dms_[A-Za-z0-9_-]{43}/;
let good = KEY;
// The key with which this page was opened, taken out of the address at once: no bookmark shall hold it.
const arrived = (location.hash.match(/^#datamount=(dm[ks]_[A-Za-z0-9_-]{43})$/) || [])[1];
// In the query of links: a form to sign in keeps that, and loses the key.
const linked = location.hash.startsWith('#datamount=') || /[?&]datamount=link(&|$)/.test(location.search);
if (linked) history.replaceState(null, '', location.pathname);

async function call(path, body, headers = {}) {
  // Also to read: JupyterHub takes no login of a script without it.
  const request = { credentials: 'same-origin', headers: { ...headers, 'X-XSRFToken': meta('xsrf') } };
  if (body !== undefined) {
    request.method = 'POST';
    request.body = JSON.stringify(body);
    request.headers['Content-Type'] = 'application/json';
  }
  let answer;
  try {
    answer = await fetch(api + path, request);
  } catch {
    throw new Problem(GONE);
  }
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok && !String(document.type).startsWith('urn:datamount:')) {
    // Jupyter itself, or a hub or proxy before it.
    if ([401, 403].includes(answer.status)) throw new Problem('You are signed out of Jupyter. Sign in again, then load this page anew.');
    if ([424, 502, 503, 504].includes(answer.status)) throw new Problem(GONE);
  }
  if (!answer.ok) {
    throw new Problem([document.detail || document.message || answer.statusText, document.hint, document.who && `Who can help: ${document.who}.`].filter(Boolean).join(' '));
  }
  return document;
}

function element(tag, text, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

function row(...cells) {
  const made = element('tr');
  for (const cell of cells) {
    const td = element('td');
    td.append(...(Array.isArray(cell) ? cell : [cell]));
    made.append(td);
  }
  return made;
}

// The student's own time as part of a file's name: "2026-11-22-1403".
function stamp(text) {
  const then = new Date(text);
  const here = new Date(then.getTime() - then.getTimezoneOffset() * 60000).toISOString();
  return here.slice(0, 16).replace('T', '-').replace(':', '');
}

const time = text => new Date(text).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });

function size(bytes) {
  if (bytes === null || bytes === undefined) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

const count = (number, word) => `${number} ${word}${number === 1 ? '' : 's'}`;

function sentence(save) {
  const files = number => `${count(number, 'file')} changed since`;
  if (save.share) return `○ Read-only share: you see the version of ${time(save.share.time)} that somebody shared. Nothing is saved.`;
  const large = save.last && save.last.too_large ? save.last.too_large.length : 0;
  const last = save.last ? `Saved to storage ${time(save.last.time)}` : 'Nothing has been saved yet';
  switch (save.state) {
    case 'saving': return '… Saving';
    case 'failed': {
      if (!save.autosave && !save.last) return `○ Saving is not available: ${save.error.detail}`;
      return `⚠ Not saved: ${save.error.detail} ${save.autosave ? 'It is tried again; your' : 'Your'} files are safe in this session.`;
    }
    case 'changed': return `● ${last}. ${files(save.changed_files)}.`;
    case 'saved': return large ? `⚠ ${last}, without ${count(large, 'file')} for which there is no room.` : `✓ ${last}. Nothing has changed since.`;
    default: return 'Nothing to save: nothing has changed.';
  }
}

function list(details, items) {
  details.hidden = items.length === 0;
  details.querySelector('ul').replaceChildren(...items.map(item => element('li', item)));
}

let shownMerge;

async function showMerge(merge) {
  if (!merge || shownMerge === merge.time) return;
  shownMerge = merge.time;
  byId('merge').hidden = false;
  byId('merge').querySelector('summary').textContent = merge.summary;
  const whole = await call('merge').catch(error => ({ markdown: error.message }));
  byId('merge').querySelector('pre').textContent = whole.markdown;
}

/** Only when it changes: a screen reader reads it out each time. */
function say(text) {
  if (byId('state').textContent !== text) byId('state').textContent = text;
}

let shownVersion;

function show(status) {
  const { save, data } = status;
  say(sentence(save));
  showMerge(status.merge);
  showLimits(status);
  byId('shown').hidden = !save.share;
  byId('save').hidden = Boolean(save.share);
  byId('save-button').disabled = save.saving;
  list(byId('changed'), save.changed);
  list(byId('skipped'), save.last ? save.last.skipped.map(item => `${item.path}: ${item.reason}`) : []);
  showData(data);
  const version = save.last ? save.last.id : '';
  if (version !== shownVersion && !save.saving) {
    shownVersion = version;
    showHistory();
    showSharing();
  }
}

function showLimits({ save, session }) {
  const ends = session && session.ends_at;
  byId('ends').hidden = !ends;
  if (ends) byId('ends').textContent = `This session ends at ${time(ends)} at the latest.`;
  const { quota } = save;
  byId('quota').hidden = !(quota && quota.near);
  if (quota) byId('quota').textContent = `Your saved work takes ${size(quota.used)} of ${size(quota.limit)}. What does not fit is left out of a save and named; notebooks and small files come first.`;
}

const STATES = { ready: '✓ Ready', pending: '… Waiting to be fetched', fetching: '… Fetching', partial: '⚠ Partly there', failed: '⚠ Not there' };

function showData(data) {
  byId('data-fault').textContent = data && data.error ? `${data.error.detail} ${data.error.hint || ''}` : '';
  const rows = Object.entries((data && data.datasets) || {}).map(([name, set]) => {
    const coming = set.state === 'fetching' && set.bytes_total ? ` ${Math.floor(100 * set.bytes_done / set.bytes_total)} %` : '';
    const state = [element('span', `${STATES[set.state]}${coming}`)];
    if (set.error) {
      state.push(element('p', [set.error.detail, set.error.hint, set.error.who && `Who can mend it: ${set.error.who}.`].filter(Boolean).join(' ')));
    }
    const title = [element('strong', name)];
    for (const text of [set.title, set.license && `Licence: ${set.license}`, set.citation && `Cite as: ${set.citation}`]) {
      if (text) title.push(element('div', text));
    }
    return row(title, state, size(set.bytes_done), [element('code', set.path)]);
  });
  byId('data').hidden = rows.length === 0;
  byId('no-data').hidden = rows.length > 0 || Boolean(data && data.error);
  byId('data').querySelector('tbody').replaceChildren(...rows);
}

const REASONS = { manual: 'saved by hand', auto: 'saved by itself', exit: 'saved at the end of a session' };

// Notes of restores name another version by id; people know it by its time.
const note = (version, versions) => version.message.replace(/\b\d{8,}-[0-9a-f]{8,}\b/, id => {
  const named = versions.find(other => other.id === id);
  return named ? time(named.time) : id;
});

// So many versions at first; each further look shows twice as many. The API gives no more than the most.
let limit = 100;
const MOST = 10000;

async function showHistory() {
  let versions;
  try {
    versions = await call(`snapshots?limit=${Math.min(limit + 1, MOST)}`);
  } catch (error) {
    notice(error);
    return;
  }
  byId('older').hidden = versions.length <= limit;
  const rows = versions.slice(0, limit).map(version => {
    const restore = element('button', 'Restore …', { type: 'button', className: 'plain' });
    restore.setAttribute('aria-label', `Restore the version of ${time(version.time)}`);
    restore.addEventListener('click', () => bringBack(version));
    const zip = element('a', 'Download', { className: 'button plain', href: `${api}snapshots/${version.id}/archive.zip` });
    zip.setAttribute('aria-label', `Download the version of ${time(version.time)} as zip`);
    return row(time(version.time), REASONS[version.reason] || version.reason, note(version, versions), `${version.files} (${size(version.bytes)})`, [restore, ' ', zip]);
  });
  byId('history').hidden = rows.length === 0;
  byId('no-history').hidden = rows.length > 0;
  byId('history').querySelector('tbody').replaceChildren(...rows);
}

const failures = done => done.failed.map(item => ` Not restored: ${item.path} (${item.reason}).`).join('');

async function bringBack(version) {
  await act(async () => {
    const place = `snapshots/${version.id}/restore`;
    const preview = await call(place, { dry_run: true });
    if (!preview.replaced.length && !preview.new.length) {
      notice(`Your files are as they were at ${time(version.time)} already.`);
      return;
    }
    const names = [...preview.replaced, ...preview.new];
    const shown = names.slice(0, 10).join('\n') + (names.length > 10 ? `\nand ${names.length - 10} more` : '');
    const question = `Bring back ${count(names.length, 'file')} as of ${time(version.time)}? What is there now is saved first.\n\n${shown}`;
    if (!confirm(question)) return;
    const done = await call(place, {});
    const undo = element('button', 'Undo', { type: 'button', className: 'plain' });
    undo.addEventListener('click', () => act(async () => {
      const back = await call(`snapshots/${done.undo}/restore`, {});
      const added = preview.new.length;
      const stay = added === 1 ? ' 1 file that was not there before stays.' : added ? ` ${added} files that were not there before stay.` : '';
      notice(`Undone: ${count(back.restored.length, 'file')} as before.${stay}${failures(back)}`);
    }));
    notice(`${count(done.restored.length, 'file')} restored.${failures(done)} Open documents: load them again from their files. `, undo);
  });
}

// Links end in lab; this page is for sessions that have none.
const here = link => link && link.replace(/([=/])lab(\?|#|%23)/, (_, before, hash) => `${before}datamount${before === '=' ? '%2F' : '/'}${hash}`);

async function showSharing() {
  let found;
  try {
    found = await call('resume');
  } catch {
    return; // a store that is down: the state says so
  }
  byId('sharing').hidden = found.kind === 'store';
  byId('resume').hidden = !found.key;
  // Who has work of their own here only looks at that of others.
  const begun = found.kind === 'user' || found.key;
  good = begun ? SHARE : KEY;
  byId('open').querySelector('label').textContent = begun ? 'Link to work that somebody shared' : 'Key or link of earlier or shared work';
  byId('copy-resume').onclick = () => copy(here(found.link) || found.key, byId('copy-resume'));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 3000);
  } catch {
    prompt('Copy it:', text); // no clipboard without https
  }
}

/** Ask with a list of what would change; the chosen place, or null for no. */
function ask(title, { version, preview }, yes, places) {
  byId('question-title').textContent = title;
  byId('question-about').textContent = `Saved ${time(version.time)}${version.message ? `, “${version.message}”` : ''}: ${count(version.files, 'file')}, ${size(version.bytes)}.`;
  byId('places').hidden = !places;
  byId('question-own').hidden = places;
  const groups = [[places ? 'Replaced by the shared ones' : 'Replaced by what they were then', preview.replaced], ['Merged with what the course has changed since', preview.merged], ['Not there now, will be added', preview.new], ['Stay as they are', preview.kept]];
  byId('question-files').replaceChildren(...groups.filter(([, names]) => names.length).map(([heading, names]) => {
    const details = element('details', undefined, { open: names.length <= 8 });
    const rows = element('ul');
    rows.append(...names.slice(0, 200).map(name => element('li', name)));
    details.append(element('summary', `${heading} (${names.length})`), rows);
    return details;
  }));
  const dialog = byId('question');
  dialog.querySelector('button[value=yes]').textContent = yes;
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes' ? dialog.querySelector('[name=place]:checked').value : null);
    }, { once: true });
  });
}

/** Offer the work behind a key, and bring it here if that is wanted. */
async function offer(key) {
  if (key.startsWith('dms_')) {
    const found = await call('shared', { secret: key, dry_run: true });
    const place = await ask('Look at shared work?', found, 'Show it', true);
    if (place === null) return;
    const into = place ? `shared-${stamp(found.version.time)}` : null;
    await call('shared', { secret: key, into });
    notice(into ? `The shared files are in the folder ${into}.` : 'You see shared work, read-only. Open documents: load them again from their files.');
    return;
  }
  const found = await call('resume', { key, dry_run: true });
  if (!found.version) {
    notice(`This key holds no work of this course; it was made in ${found.made_for}.`);
  } else if ((await ask('Go on with your saved work?', found, 'Bring it here', false)) !== null) {
    const done = await call('resume', { key });
    notice(`${count(done.restored.restored.length, 'file')} restored. Open documents: load them again from their files.`);
    showSharing();
  }
}

function notice(what, ...more) {
  byId('notice').classList.toggle('fault', what instanceof Error);
  byId('notice').replaceChildren(what instanceof Error ? what.message : what, ...more);
}

async function act(work) {
  notice('');
  try {
    await work();
  } catch (error) {
    notice(error);
  }
}

byId('save').addEventListener('submit', event => {
  event.preventDefault();
  act(async () => {
    byId('save-button').disabled = true;
    const key = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
    try {
      const done = await call('snapshots', { message: byId('message').value }, { 'Idempotency-Key': key });
      byId('message').value = '';
      notice(done.created ? 'Saved.' : 'Nothing has changed since the last save.');
    } finally {
      byId('save-button').disabled = false;
    }
  });
});

byId('older').addEventListener('click', () => {
  limit *= 2;
  showHistory();
});

byId('open').addEventListener('submit', event => {
  event.preventDefault();
  const key = good.exec(byId('key').value);
  act(async () => {
    if (!key) throw new Problem('There is no such key in this text. Copy the whole of the link.');
    await offer(key[0]);
    byId('key').value = '';
  });
});

byId('share').addEventListener('submit', event => {
  event.preventDefault();
  act(async () => {
    const given = await call('shares', { version: 'latest', days: 7 });
    const text = here(given.session_link) || given.link || given.secret;
    const button = element('button', 'Copy', { type: 'button', className: 'plain' });
    button.addEventListener('click', () => copy(text, button));
    byId('given').replaceChildren('Copy it now, it is not shown again: ', element('code', text), ' ', button);
  });
});

for (const [id, keep] of [['own', false], ['keep', true]]) {
  byId(id).addEventListener('click', () => act(async () => {
    await call('shared/end', { keep });
    notice(keep ? 'It is yours now, and saved.' : 'Your own files are back. Open documents: load them again from their files.');
  }));
}

let events;
let looks;

/** Show the state now; false where nobody says it. */
async function look() {
  try {
    show(await call('status'));
    return true;
  } catch (error) {
    say(`⚠ ${error.message}`);
    return false;
  }
}

function stop() {
  clearInterval(looks);
  if (events) events.close();
  events = undefined;
}

function listen() {
  if (events || document.hidden) return;
  const again = () => {
    stop();
    setTimeout(listen, 5000);
  };
  events = new EventSource(`${api}events?_xsrf=${encodeURIComponent(meta('xsrf'))}`);
  events.addEventListener('state', event => show(JSON.parse(event.data)));
  // Not left to the browser to try again: what the page says must not outlive the connection.
  events.addEventListener('error', () => {
    again();
    look();
  });
  // A proxy on the way may hold the stream back, and its end: JupyterHub's does when a server is stopped.
  looks = setInterval(async () => (await look()) || again(), 10000);
}

// A hidden tab must not keep asking: it would look like activity to a proxy in front of the hub.
document.addEventListener('visibilitychange', () => (document.hidden ? stop() : listen()));
listen();
if (arrived) act(() => offer(arrived));
else if (linked) notice('The key of your link is missing: signing in may have lost it. Open it once more, the whole of it.');
