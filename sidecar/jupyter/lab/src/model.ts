/** What is known of the session, kept up to date by the sidecar's stream of events while the tab is visible. */

import { ISignal, Signal } from '@lumino/signaling';

import { ApiError, Client, IProblem, IStatus, isOurs } from './api';

/**
 * How well we know. "asking": not yet; "connected": `status` is the truth; "absent": this session has no sidecar
 * (`problem` says why); "signed-out": the Jupyter server wants a login first; "lost": it does not answer.
 */
export type Link = 'asking' | 'connected' | 'absent' | 'signed-out' | 'lost';

/** Milliseconds within which the sidecar has noticed a change of a file, in the largest folders. */
const LOOKS_AT_LEAST_EVERY = 40000;
/** Minutes before the end of the session from which on it is shown. */
const END_IS_NEAR = 30;
const TICK = 20000;
/** The stream says something at once, and then every 15 s. */
const FIRST_WORD = 10000;
const SILENCE = 45000;
/** How a stream is made up for that something on the way holds back, such as a proxy: asked so often, so many times. */
const ASK_EVERY = 5000;
const ASK_TIMES = 24;
const TOO_MANY = 429;
const FIRST_PAUSE = 1000;
/** Nobody answered, or a hub or proxy in the place of a Jupyter server that is gone. */
const SERVER_AWAY = [0, 424, 502, 503, 504];
const LONGEST_PAUSE = 30000;

export class SessionModel {
  constructor(readonly client: Client) {
    // A hidden tab must not keep asking: a proxy before the hub would take it for activity.
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) {
        this._stream?.abort();
      } else {
        this._wake?.();
      }
    });
    // Time passes although nothing else changes: "saved 14:03" must not be read as today's tomorrow.
    window.setInterval(() => {
      const today = new Date().toDateString();
      if (today !== this._today || this.minutesLeft() !== null) {
        this._today = today;
        this._changed.emit();
      }
    }, TICK);
    void this._follow();
  }

  link: Link = 'asking';
  status: IStatus | null = null;
  problem: IProblem | null = null;
  /** Open documents with edits that are in this browser tab only. */
  unsaved: string[] = [];

  /** A save or restore that this tab asked for is under way. */
  busy = false;
  /** A file was written, and the sidecar has not looked at it yet. */
  written = false;

  /** Something above has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** The history has a new version, or may have. */
  get saved(): ISignal<this, void> {
    return this._saved;
  }

  setUnsaved(paths: string[]): void {
    if (paths.join('\n') !== this.unsaved.join('\n')) {
      this.unsaved = paths;
      this._changed.emit();
    }
  }

  setBusy(busy: boolean): void {
    this.busy = busy;
    this._changed.emit();
  }

  /** A file was written: until the sidecar has looked, the last save must not be taken to hold it. */
  setWritten(written: boolean): void {
    window.clearTimeout(this._looks);
    if (written) {
      this._looks = window.setTimeout(() => this.setWritten(false), LOOKS_AT_LEAST_EVERY);
    }
    if (written !== this.written) {
      this.written = written;
      this._changed.emit();
    }
  }

  /** Whether closing the tab now could lose something. Files on the server are saved without the tab, if they can be. */
  atRisk(): boolean {
    const save = this.status?.save;
    if (this.readOnly) {
      return false;
    }
    return this.unsaved.length > 0 || save?.state === 'failed' || (save?.state === 'changed' && !save.autosave);
  }

  /** Whole minutes until the hub ends this session; null where that is not known, or not before hours. */
  minutesLeft(): number | null {
    const ends = this.status?.session?.ends_at;
    const left = ends ? Math.floor((Date.parse(ends) - Date.now()) / 60000) : Infinity;
    return left <= END_IS_NEAR ? Math.max(0, left) : null;
  }

  /** Whether somebody's shared version is shown in place of the student's files. */
  get readOnly(): boolean {
    return !!this.status?.save.share;
  }

  /** Jupyter could not reach its server. A hub's proxy keeps our stream open when it stops a server: ask anew. */
  doubt(): void {
    this._stream?.abort();
  }

  private _set(link: Link, problem: IProblem | null = null): void {
    this.link = link;
    this.problem = problem;
    this._changed.emit();
  }

  private _fail(error: unknown): void {
    const { status, problem } = error instanceof ApiError ? error : { status: 0, problem: null };
    const ours = isOurs(problem);
    if (!ours && (status === 401 || status === 403)) {
      this._set('signed-out');
    } else if (!ours && SERVER_AWAY.includes(status)) {
      this._set('lost');
    } else {
      this._set('absent', problem);
    }
  }

  private async _follow(): Promise<void> {
    let pause = FIRST_PAUSE;
    for (;;) {
      if (document.hidden && this.link === 'asking') {
        // Once in any case: a tab that was opened in the background should know when it is looked at.
        await this.client.status(FIRST_WORD).then(status => this._receive(status), console.debug);
      }
      if (document.hidden) {
        await this._sleep(Infinity);
      }
      const asking = this._silent;
      try {
        await (asking ? this._ask() : this._listen());
        pause = FIRST_PAUSE;
      } catch (error) {
        // Too many tabs listen: this one asks, as where the stream is silent.
        this._silent ||= !asking && error instanceof ApiError && error.status === TOO_MANY;
        if (this._silent || document.hidden) {
          continue;
        }
        this._fail(error);
        pause = Math.min(LONGEST_PAUSE, pause * 2);
      }
      await this._sleep(pause);
    }
  }

  /** Read the stream to its end. `EventSource` cannot send the token that some hubs need; `fetch` can. */
  private async _listen(): Promise<void> {
    const stream = (this._stream = new AbortController());
    const headers = { Accept: 'text/event-stream' };
    const silent = () => {
      this._silent = true;
      stream.abort();
    };
    let watch = window.setTimeout(silent, FIRST_WORD);
    try {
      const answer = await this.client.response('events', { headers, signal: stream.signal });
      if (!answer.headers.get('Content-Type')?.startsWith('text/event-stream')) {
        throw new ApiError({ detail: 'This is not the Jupyter server.' }, 0); // the login page of something before it
      }
      await this._read(answer.body!.getReader(), () => {
        window.clearTimeout(watch);
        watch = window.setTimeout(silent, SILENCE);
      });
    } finally {
      window.clearTimeout(watch);
    }
  }

  /** Where the stream is silent: ask for a while. */
  private async _ask(): Promise<void> {
    this._silent = false;
    for (let times = 0; times < ASK_TIMES && !document.hidden; times++) {
      this._receive(await this.client.status(SILENCE));
      await this._sleep(ASK_EVERY);
    }
  }

  private async _read(reader: ReadableStreamDefaultReader<Uint8Array>, heard: () => void): Promise<void> {
    const decoder = new TextDecoder();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      heard();
      text += decoder.decode(value, { stream: true });
      const events = text.split('\n\n');
      text = events.pop()!;
      for (const event of events) {
        const data = event.split('\n').find(line => line.startsWith('data: '));
        if (data) {
          this._receive(JSON.parse(data.slice(6)));
        }
      }
    }
  }

  private _receive(status: IStatus): void {
    const before = this.status?.save.last?.id;
    this.status = status;
    if (status.save.state !== 'saved' && status.save.state !== 'unchanged') {
      // It has noticed; what it says from here on is about the files as they are.
      window.clearTimeout(this._looks);
      this.written = false;
    }
    this._set('connected');
    if (status.save.last?.id !== before) {
      this._saved.emit();
    }
  }

  private _sleep(milliseconds: number): Promise<void> {
    return new Promise(resolve => {
      this._wake = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = milliseconds === Infinity ? undefined : setTimeout(resolve, milliseconds);
    });
  }

  private _changed = new Signal<this, void>(this);
  private _saved = new Signal<this, void>(this);
  private _looks = 0;
  private _today = new Date().toDateString();
  private _silent = false;
  private _stream: AbortController | null = null;
  private _wake: (() => void) | null = null;
}
