/** The sidecar's API, version 1, as it comes through the Jupyter server. Field names are those of its documents. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** An RFC 9457 problem document. */
export interface IProblem {
  /** Of our own documents: "urn:datamount:problem:…". */
  type?: string;
  title?: string;
  status?: number;
  detail: string;
  hint?: string | null;
  who?: string | null;
}

/** Whether the sidecar or our server extension says so, not Jupyter, a hub or a proxy. */
export function isOurs(problem: IProblem | null): boolean {
  return !!problem?.type?.startsWith('urn:datamount:');
}

export interface ISkipped {
  path: string;
  reason: string;
}

export interface ILastSave {
  id: string;
  time: string;
  reason: string;
  created: boolean;
  skipped: ISkipped[];
  /** Those of the skipped that a limit or the quota kept out. */
  too_large?: string[];
  warnings: string[];
}

/** The tightest limit: of one version (the course's), or of all the work together (the hub's). */
export interface IQuota {
  used: number;
  limit: number;
  near: boolean;
  per: 'version' | 'work';
}

/** Somebody's version that is shown in place of the student's files. */
export interface IShown {
  version: string;
  time: string;
  message: string;
}

export interface ISaveState {
  state: 'unchanged' | 'saved' | 'changed' | 'saving' | 'failed' | 'read-only';
  last: ILastSave | null;
  share?: IShown | null;
  quota?: IQuota | null;
  changed_files: number;
  changed: string[];
  saving: boolean;
  restoring: boolean;
  error: IProblem | null;
  store: string;
  owner: string;
  course: string;
  autosave: boolean;
}

export interface IDataset {
  kind: string;
  state: 'pending' | 'fetching' | 'ready' | 'partial' | 'failed';
  title: string | null;
  license: string | null;
  citation: string | null;
  path: string;
  optional: boolean;
  background: boolean;
  files_done: number;
  files_total: number | null;
  bytes_done: number;
  bytes_total: number | null;
  seconds: number;
  pin: Record<string, unknown> | null;
  locked: boolean;
  variables: Record<string, string>;
  warnings: string[];
  error: IProblem | null;
}

export interface IDataStatus {
  state: string;
  error: IProblem | null;
  datasets: Record<string, IDataset>;
}

export interface IStatus {
  data: IDataStatus | null;
  save: ISaveState;
  session?: { ends_at: string | null };
  /** What the launch merged; null or missing where it merged nothing. */
  merge?: IMergeSummary | null;
}

export interface ISnapshot {
  id: string;
  time: string;
  reason: string;
  message: string;
  author: string;
  course_ref: string;
  parent: string | null;
  files: number;
  bytes: number;
  skipped: number;
  shrunk: boolean;
}

export interface IEntry {
  path: string;
  type: string;
  size: number;
  stored: boolean;
}

export interface ISnapshotDetail extends ISnapshot {
  entries: IEntry[];
  left_out: ISkipped[];
  warnings: string[];
}

export interface ISaved {
  snapshot: ISnapshot;
  created: boolean;
  skipped: ISkipped[];
  warnings: string[];
}

export interface IDifference {
  path: string;
  kind: 'added' | 'removed' | 'changed';
  before: number | null;
  after: number | null;
}

export interface ICellDifference {
  kind: 'added' | 'removed' | 'changed' | 'results';
  index: number;
  cell_type: string;
  before: string | null;
  after: string | null;
  moved: boolean;
  lines: string[];
}

export interface IFileDifference {
  path: string;
  format: 'notebook' | 'text' | 'binary' | 'large';
  before: number | null;
  after: number | null;
  cells: ICellDifference[];
  lines: string[];
}

export interface IPreview {
  new: string[];
  replaced: string[];
  /** Changed by the student, and since then by the course. */
  merged: string[];
  kept: string[];
  unchanged: number;
  not_stored: string[];
}

export interface IMergeSummary {
  version: string;
  time: string;
  summary: string;
  to_look_at: number;
}

export interface IShare {
  id: string;
  version: string;
  created: string;
  expires: string;
}

export interface IGivenShare extends IShare {
  secret: string;
  /** Downloads it. */
  link: string | null;
  /** Shows it in a new session of the course. */
  session_link: string | null;
}

/** Whose the work is: a user's of the hub, whoever has the key, or of a store that has neither links nor keys. */
export interface IResumeKey {
  kind: 'user' | 'work-key' | 'store';
  key: string | null;
  /** Starts a session that offers the work. */
  link: string | null;
}

export interface IResumed {
  versions: number;
  made_for: string;
  restored: IRestored | null;
}

/** What going on with the work under a key would do; nulls where it holds none of this course. */
export interface IResumePreview {
  versions: number;
  made_for: string;
  version: ISnapshot | null;
  preview: IPreview | null;
}

export interface IShowPreview {
  version: ISnapshot;
  preview: IPreview;
}

export interface IEnded {
  restored: string[];
  removed: string[];
}

export interface IRestored {
  restored: string[];
  unchanged: number;
  failed: ISkipped[];
  not_stored: string[];
  bytes: number;
  undo: string;
}

/** A request that was refused, or that found nobody. `status` is 0 where the Jupyter server itself did not answer. */
export class ApiError extends Error {
  constructor(
    readonly problem: IProblem,
    readonly status: number
  ) {
    super(problem.detail);
  }
}

export class Client {
  readonly settings = ServerConnection.makeSettings();

  url(path: string): string {
    return URLExt.join(this.settings.baseUrl, 'datamount/api/v1', path);
  }

  /** The state now; an ApiError of status 0 where it does not come within so many milliseconds. */
  async status(within: number): Promise<IStatus> {
    const late = new AbortController();
    const watch = window.setTimeout(() => late.abort(), within);
    try {
      return await (await this.response('status', { signal: late.signal })).json();
    } finally {
      window.clearTimeout(watch);
    }
  }

  /** The newest versions, so many. */
  snapshots(limit: number): Promise<ISnapshot[]> {
    return this.json(`snapshots?limit=${limit}`);
  }

  snapshot(id: string): Promise<ISnapshotDetail> {
    return this.json(`snapshots/${encodeURIComponent(id)}`);
  }

  diff(id: string, against?: string): Promise<IDifference[]> {
    const query = against ? `?against=${encodeURIComponent(against)}` : '';
    return this.json(`snapshots/${encodeURIComponent(id)}/diff${query}`);
  }

  fileDiff(id: string, path: string, against?: string): Promise<IFileDifference> {
    const name = path.split('/').map(encodeURIComponent).join('/');
    const query = against ? `?against=${encodeURIComponent(against)}` : '';
    return this.json(`snapshots/${encodeURIComponent(id)}/diff/${name}${query}`);
  }

  /** What a restore would do; nothing is done. */
  preview(id: string, paths: string[]): Promise<IPreview> {
    return this.json(`snapshots/${encodeURIComponent(id)}/restore`, { body: { paths, dry_run: true } });
  }

  shares(): Promise<IShare[]> {
    return this.json('shares');
  }

  share(version: string, days: number): Promise<IGivenShare> {
    return this.json('shares', { body: { version, days } });
  }

  async revoke(id: string): Promise<void> {
    await this.response(`shares/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  resumeKey(): Promise<IResumeKey> {
    return this.json('resume');
  }

  resume(key: string): Promise<IResumed> {
    return this.json('resume', { body: { key } });
  }

  /** What `resume` would do; nothing is done. */
  previewResume(key: string): Promise<IResumePreview> {
    return this.json('resume', { body: { key, dry_run: true } });
  }

  /** Bring a shared version here: below a folder, or, read-only, in place of the student's files. */
  show(secret: string, into: string | null): Promise<IRestored> {
    return this.json('shared', { body: { secret, into } });
  }

  /** What `show` would do; nothing is done. */
  previewShow(secret: string): Promise<IShowPreview> {
    return this.json('shared', { body: { secret, dry_run: true } });
  }

  /** Back to the student's files, or keep what is shown as theirs. */
  endShow(keep: boolean): Promise<IEnded> {
    return this.json('shared/end', { body: { keep } });
  }

  merge(): Promise<{ markdown: string | null }> {
    return this.json('merge');
  }

  restore(id: string, paths: string[]): Promise<IRestored> {
    return this.json(`snapshots/${encodeURIComponent(id)}/restore`, { body: { paths } });
  }

  /** Save; resolves when the version is durable. Asked again once where the answer got lost: the key makes that safe. */
  async save(message: string): Promise<ISaved> {
    const headers = { 'Idempotency-Key': key() };
    try {
      return await this.json('snapshots', { body: { message }, headers });
    } catch (error) {
      if (error instanceof ApiError && error.status === 0) {
        return this.json('snapshots', { body: { message }, headers });
      }
      throw error;
    }
  }

  async response(path: string, init: RequestInit = {}): Promise<Response> {
    let answer: Response;
    try {
      answer = await ServerConnection.makeRequest(this.url(path), init, this.settings);
    } catch (error) {
      throw new ApiError({ detail: 'The Jupyter server does not answer.' }, 0);
    }
    if (!answer.ok) {
      const document = await answer.json().catch(() => ({}));
      if (!isOurs(document) && (answer.status === 401 || answer.status === 403)) {
        const hint = 'Sign in again in another tab, then try again here.';
        throw new ApiError({ detail: 'You are signed out of Jupyter.', hint }, answer.status);
      }
      const detail = document.detail || document.message || answer.statusText;
      throw new ApiError({ ...document, detail }, answer.status);
    }
    return answer;
  }

  private async json<T>(
    path: string,
    { body, headers }: { body?: unknown; headers?: Record<string, string> } = {}
  ): Promise<T> {
    const init: RequestInit = { headers: { ...headers } };
    if (body !== undefined) {
      init.method = 'POST';
      init.body = JSON.stringify(body);
      init.headers = { ...headers, 'Content-Type': 'application/json' };
    }
    return (await this.response(path, init)).json();
  }
}

function key(): string {
  // Not randomUUID: that is only there on https and localhost.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}
