// The page of interfaces without the Lab extension: state, Save, history, data.
'use strict';

const meta = name => document.querySelector(`meta[name=${name}]`).content;
const api = meta('base') + 'datamount/api/v1/';
const byId = id => document.getElementById(id);

class Problem extends Error {}

async function call(path, body, headers = {}) {
  const request = { credentials: 'same-origin', headers: { ...headers } };
  if (body !== undefined) {
    request.method = 'POST';
    request.body = JSON.stringify(body);
    request.headers['Content-Type'] = 'application/json';
    request.headers['X-XSRFToken'] = meta('xsrf');
  }
  let answer;
  try {
    answer = await fetch(api + path, request);
  } catch {
    throw new Problem('The Jupyter server does not answer.');
  }
  const document = await answer.json().catch(() => ({}));
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

const time = text => new Date(text).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });

function size(bytes) {
  if (bytes === null || bytes === undefined) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function sentence(save) {
  const files = count => `${count} file${count === 1 ? '' : 's'} changed since`;
  const last = save.last ? `Saved to storage ${time(save.last.time)}` : 'Nothing has been saved yet';
  switch (save.state) {
    case 'saving': return 'Saving …';
    case 'failed': return `Not saved: ${save.error.detail} It is tried again; your files are safe in this session.`;
    case 'changed': return `${last}. ${files(save.changed_files)}.`;
    case 'saved': return `${last}. Nothing has changed since.`;
    default: return 'Nothing to save: nothing has changed.';
  }
}

function list(details, items) {
  details.hidden = items.length === 0;
  details.querySelector('ul').replaceChildren(...items.map(item => element('li', item)));
}

let shownVersion;

function show(status) {
  const { save, data } = status;
  byId('state').textContent = sentence(save);
  byId('save-button').disabled = save.saving;
  list(byId('changed'), save.changed);
  list(byId('skipped'), save.last ? save.last.skipped.map(item => `${item.path}: ${item.reason}`) : []);
  showData(data);
  const version = save.last ? save.last.id : '';
  if (version !== shownVersion && !save.saving) {
    shownVersion = version;
    showHistory();
  }
}

function showData(data) {
  byId('data-fault').textContent = data && data.error ? `${data.error.detail} ${data.error.hint || ''}` : '';
  const rows = Object.entries((data && data.datasets) || {}).map(([name, set]) => {
    const coming = set.bytes_total ? ` ${Math.floor(100 * set.bytes_done / set.bytes_total)} %` : '';
    const state = [element('span', set.state === 'fetching' ? `fetching${coming}` : set.state)];
    if (set.error) {
      state.push(element('p', [set.error.detail, set.error.hint, set.error.who && `Who can mend it: ${set.error.who}.`].filter(Boolean).join(' ')));
    }
    const title = set.title ? [element('strong', name), element('div', set.title)] : [element('strong', name)];
    return row(title, state, size(set.bytes_done), [element('code', set.path)]);
  });
  byId('data').querySelector('tbody').replaceChildren(...rows);
}

async function showHistory() {
  let versions;
  try {
    versions = await call('snapshots');
  } catch (error) {
    notice(error);
    return;
  }
  const rows = versions.map(version => {
    const restore = element('button', 'Restore', { type: 'button', className: 'plain' });
    restore.setAttribute('aria-label', `Restore the version of ${time(version.time)}`);
    restore.addEventListener('click', () => bringBack(version));
    const zip = element('a', 'Download', { className: 'button plain', href: `${api}snapshots/${version.id}/archive.zip` });
    return row(time(version.time), version.reason, version.message, `${version.files} (${size(version.bytes)})`, [restore, ' ', zip]);
  });
  byId('history').querySelector('tbody').replaceChildren(...rows);
}

async function bringBack(version) {
  if (!confirm(`Bring back your files as of ${time(version.time)}? What is there now is saved first.`)) return;
  await act(async () => {
    const done = await call(`snapshots/${version.id}/restore`, {});
    const undo = element('button', 'Undo', { type: 'button', className: 'plain' });
    undo.addEventListener('click', () => act(async () => {
      await call(`snapshots/${done.undo}/restore`, {});
      notice('Undone.');
    }));
    notice(`${done.restored.length} files restored, ${done.failed.length} failed. `, undo);
  });
}

function notice(what, ...more) {
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

let events;

function listen() {
  if (events || document.hidden) return;
  events = new EventSource(api + 'events');
  events.addEventListener('state', event => show(JSON.parse(event.data)));
  events.addEventListener('error', async () => {
    if (events && events.readyState !== EventSource.CLOSED) return;
    events = undefined;
    try {
      show(await call('status'));
    } catch (error) {
      byId('state').textContent = error.message;
    }
    setTimeout(listen, 5000);
  });
}

// A hidden tab must not keep asking: it would look like activity to a proxy in front of the hub.
document.addEventListener('visibilitychange', () => {
  if (document.hidden && events) {
    events.close();
    events = undefined;
  } else {
    listen();
  }
});
listen();
