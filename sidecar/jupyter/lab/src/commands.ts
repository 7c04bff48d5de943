/** What the student can do, however they do it: button, menu, palette, shortcut or panel. */

import { Dialog, InputDialog, Notification, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import type { IPreview, IRestored, ISnapshot } from './api';
import { askResume, askShow } from './arrival';
import type { Documents } from './documents';
import { isShare } from './link';
import type { SessionModel } from './model';
import { Preview } from './preview';
import { Resumption } from './resumption';
import { briefly, moment, reason } from './words';

export const SAVE = 'datamount:save';
export const SAVE_WITH_MESSAGE = 'datamount:save-with-message';
export const HISTORY = 'datamount:history';
export const DATA = 'datamount:data';

/** What the last restore did, and how to take it back. */
export interface INotice {
  text: string;
  files: string[];
  undo?: { version: string; paths: string[] };
}

/** What the API takes in one request: so many paths, so many bytes. */
const MOST_PATHS = 1000;
const MOST_BYTES = 60000;
/** Characters. Jupyter cuts messages after 140. */
const LONGEST_MESSAGE = 120;
const NOTHING = { restored: [], unchanged: 0, failed: [], not_stored: [], bytes: 0 };

/** Whether a request can name these paths; names that are not UTF-8 come as something else than they are. */
function sendable(paths: string[]): boolean {
  const text = JSON.stringify(paths);
  return paths.length <= MOST_PATHS && new Blob([text]).size <= MOST_BYTES && !text.includes('\ufffd');
}

export class Actions {
  constructor(
    readonly model: SessionModel,
    readonly documents: Documents,
    readonly trans: TranslationBundle
  ) {
    this.resumption = new Resumption(model);
  }

  readonly resumption: Resumption;

  /** Write the open documents to their files, then save all files. Resolves when that is durable, or told why not. */
  save(message = ''): Promise<boolean> {
    return this._alone(() => this._save(message));
  }

  /** One after the other: two writes of one document at once would look like a change by someone else. */
  private _alone<T>(work: () => Promise<T>): Promise<T> {
    const mine = this._last.then(async () => {
      this.model.setBusy(true);
      try {
        return await work();
      } finally {
        this.model.setBusy(false);
      }
    });
    this._last = mine.catch(() => undefined);
    return mine;
  }

  private async _save(message: string): Promise<boolean> {
    const { trans } = this;
    if (!(await this._writeDocuments(trans.__('Not saved: an open document could not be written.')))) {
      return false;
    }
    try {
      // Before it: what is written while it saves may be too late for it.
      this.model.setWritten(false);
      await this.model.client.save(message);
      return true;
    } catch (error) {
      this.model.setWritten(true);
      this.tell('error', trans.__('Not saved: %1', briefly(error, trans)));
      return false;
    }
  }

  /** As `save`, after asking for a note. */
  async saveWithMessage(): Promise<void> {
    const { trans } = this;
    const answer = await InputDialog.getText({
      title: trans.__('Save with a note'),
      label: trans.__('What is in this version?'),
      okLabel: trans.__('Save')
    });
    if (answer.button.accept) {
      await this.save(answer.value ?? '');
    }
  }

  /** Look at once which documents have unsaved edits. */
  look(): void {
    this.model.setUnsaved(this.documents.unsaved());
  }

  notice: INotice | null = null;

  /** `notice` has changed. */
  get noticed(): ISignal<this, void> {
    return this._noticed;
  }

  /** Bring back a version, or chosen files of it, after showing what that changes. What is there is saved first. */
  async restore(version: ISnapshot, paths: string[]): Promise<void> {
    const { client } = this.model;
    const preview = await this._ask(() => client.preview(version.id, paths));
    // Of chosen files nobody wonders about the others.
    if (preview && (await this._agreed(version, paths.length ? { ...preview, kept: [] } : preview))) {
      const done = await this._replace(() => client.restore(version.id, paths));
      if (done) {
        this._note(done, { version: done.undo, paths: done.restored });
      }
    }
  }

  /** What the files would become, with this tab's edits in them; null where that is not known, which was told. */
  private _ask<T>(question: () => Promise<T>): Promise<T | null> {
    return this._alone(async () => {
      if (!(await this._writeDocuments(this._notRestored))) {
        return null;
      }
      try {
        return await question();
      } catch (error) {
        this._tellRefused(error);
        return null;
      }
    });
  }

  private async _agreed(version: ISnapshot, preview: IPreview): Promise<boolean> {
    const { trans } = this;
    const something = preview.replaced.length + preview.new.length > 0;
    const answer = await showDialog({
      title: trans.__('Restore the version of %1', moment(version.time)),
      body: new Preview({ preview, trans }),
      buttons: something
        ? [Dialog.cancelButton(), Dialog.okButton({ label: trans.__('Restore') })]
        : [Dialog.okButton({ label: trans.__('Close') })]
    });
    return something && answer.button.accept;
  }

  /** Take the last restore back. That, too, saves what is there first. */
  async undo(): Promise<void> {
    const undo = this.notice?.undo;
    if (!undo) {
      return;
    }
    const { client } = this.model;
    let stay = 0;
    const done = await this._replace(async () => {
      const { entries } = await client.snapshot(undo.version);
      const before = new Set(entries.map(entry => entry.path));
      const paths = undo.paths.filter(path => before.has(path));
      stay = undo.paths.length - paths.length;
      return paths.length ? client.restore(undo.version, sendable(paths) ? paths : []) : { ...NOTHING, undo: undo.version };
    });
    if (done) {
      this._note(done, undefined, stay);
    }
  }

  /** Offer the work behind a resume key or the secret of a share, with what it would change here. True when taken. */
  offer(key: string): Promise<boolean> {
    return isShare(key) ? this._offerShare(key) : this._offerResume(key);
  }

  private async _offerResume(key: string): Promise<boolean> {
    const { trans, resumption } = this;
    const { client } = this.model;
    if (resumption.found?.key === key) {
      return true; // this very session made it, or has taken it up
    }
    const found = await this._ask(() => client.previewResume(key));
    if (!found) {
      return false;
    }
    if (!found.version || !found.preview) {
      this.tell('warning', trans.__('This key holds no work of this course; it was made in %1.', found.made_for));
      return false;
    }
    if (!(await askResume(found.version, found.preview, trans))) {
      return false;
    }
    const done = await this._replace(async () => (await client.resume(key)).restored);
    resumption.again();
    if (done) {
      this._note(done, { version: done.undo, paths: done.restored });
    }
    return done !== null;
  }

  private async _offerShare(secret: string): Promise<boolean> {
    const { trans } = this;
    const { client } = this.model;
    const found = await this._ask(() => client.previewShow(secret));
    const place = found && (await askShow(found.version, found.preview, trans));
    if (place === null) {
      return false;
    }
    const done = await this._replace(() => client.show(secret, place || null));
    if (done) {
      const where = place ? trans.__('The shared files are in the folder %1.', place) : '';
      const said = this._said(done, where);
      if (said) {
        this._noteText(said, done.restored);
      }
    }
    return done !== null;
  }

  /** Back from a shared version to the student's own files, or keep it as theirs. */
  async endShow(keep: boolean): Promise<void> {
    const { trans } = this;
    let gone: string[] = [];
    const done = await this._replace(async () => {
      const ended = await this.model.client.endShow(keep);
      gone = ended.removed;
      return ended;
    });
    if (done) {
      this.documents.close(gone);
      this._noteText(keep ? trans.__('It is yours now, and saved.') : trans.__('Your own files are back.'), done.restored);
    }
  }

  dismiss(): void {
    this.notice = null;
    this._noticed.emit();
  }

  /** Let the browser save a version as a zip file. */
  download(version: ISnapshot): void {
    const link = document.createElement('a');
    link.href = this.model.client.url(`snapshots/${encodeURIComponent(version.id)}/archive.zip`);
    link.download = '';
    link.click();
  }

  private async _writeDocuments(fault: string): Promise<boolean> {
    try {
      await this.documents.save(path => this._keepOther(path));
      return true;
    } catch (error) {
      this.tell('error', `${fault} ${reason(error, this.trans)}`);
      return false;
    } finally {
      this.look();
    }
  }

  /** Before this tab's edits replace what another tab or program wrote to a file: keep that in the history. */
  private async _keepOther(path: string): Promise<void> {
    const { trans } = this;
    try {
      await this.model.client.save(trans.__('%1 as it was written elsewhere', path));
      this.tell('warning', trans.__('Changed elsewhere too. The other version is in the history, this tab\'s edits are in the file: %1', path));
    } catch (error) {
      await this.documents.copy(path);
      this.tell('warning', trans.__('Changed elsewhere too. The other version is beside it, this tab\'s edits are in the file: %1', path));
    }
  }

  /** Let files be replaced and show the new content; null where that failed, which was told. */
  private _replace<T extends { restored: string[] }>(work: () => Promise<T | null>): Promise<T | null> {
    const { trans } = this;
    return this._alone(async () => {
      // The documents again: a dialog may have been open for long.
      if (!(await this._writeDocuments(this._notRestored))) {
        return null;
      }
      // Typing in a document while its file is replaced would be lost: nothing can be clicked meanwhile.
      const wait = new Dialog({
        title: trans.__('Restoring …'),
        body: new Widget(),
        buttons: [],
        hasClose: false
      });
      wait.launch().catch(() => undefined);
      try {
        this.model.setWritten(false);
        const done = await work();
        await this.documents.revert(done?.restored ?? []);
        this.look();
        return done;
      } catch (error) {
        this.model.setWritten(true);
        this._tellRefused(error);
        return null;
      } finally {
        wait.dispose();
      }
    });
  }

  /** `stay`: how many files an Undo left where a restore had put them. */
  private _note(done: IRestored, undo?: INotice['undo'], stay = 0): void {
    const { trans } = this;
    const first = undo
      ? trans._n('%1 file restored.', '%1 files restored.', done.restored.length)
      : trans._n('Undone: %1 file is as it was.', 'Undone: %1 files are as they were.', done.restored.length);
    const added = stay
      ? trans._n('%1 file that was not there before stays.', '%1 files that were not there before stay.', stay)
      : '';
    const text = [this._said(done, first), added].filter(Boolean).join(' ');
    this._noteText(text, done.restored, done.restored.length ? undo : undefined);
  }

  private _noteText(text: string, files: string[], undo?: INotice['undo']): void {
    this.notice = { text, files, undo };
    this._noticed.emit();
  }

  /** A restore in words: what came of it, then what did not. */
  private _said(done: IRestored, first: string): string {
    const { trans } = this;
    const parts = first ? [first] : [];
    if (done.unchanged && first) {
      parts.push(trans._n('%1 was the same already.', '%1 were the same already.', done.unchanged));
    }
    if (done.failed.length) {
      const names = done.failed.map(item => `${item.path} (${item.reason})`).join(', ');
      parts.push(trans.__('Not restored: %1.', names));
    }
    if (done.not_stored.length) {
      parts.push(trans.__('Large files of the course that are not kept with the work: %1.', done.not_stored.join(', ')));
    }
    return parts.join(' ');
  }

  private get _notRestored(): string {
    return this.trans.__('Nothing was restored: an open document could not be written.');
  }

  private _last: Promise<unknown> = Promise.resolve();
  private _noticed = new Signal<this, void>(this);

  /** Nothing shows it afterwards, so all of it is told. */
  private _tellRefused(error: unknown): void {
    const { trans } = this;
    const why = reason(error, trans);
    if (why.length > LONGEST_MESSAGE) {
      void showErrorMessage(trans.__('Not restored'), why);
    } else {
      this.tell('error', trans.__('Not restored: %1', why));
    }
  }

  /** Jupyter cuts long messages: what matters comes first, names last. */
  tell(type: 'error' | 'warning' | 'success', text: string): void {
    Notification.emit(text, type, { autoClose: type === 'error' ? false : 8000 });
  }
}
