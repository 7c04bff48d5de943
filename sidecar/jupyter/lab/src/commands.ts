/** What the student can do, however they do it: button, menu, palette, shortcut or panel. */

import { Dialog, InputDialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import type { IPreview, IRestored, ISkipped, ISnapshot } from './api';
import type { Documents } from './documents';
import type { SessionModel } from './model';
import { Preview } from './preview';
import { moment, reason } from './words';

export const SAVE = 'datamount:save';
export const SAVE_WITH_MESSAGE = 'datamount:save-with-message';
export const HISTORY = 'datamount:history';
export const DATA = 'datamount:data';

/** Reasons to leave a file out that no student needs to hear of; the panel lists them all the same. */
const EXPECTED = ['a cache', "the link to the course's data", 'excluded by the course'];

/** What the last restore did, and how to take it back. */
export interface INotice {
  text: string;
  files: string[];
  undo?: { version: string; paths: string[] };
}

export class Actions {
  constructor(
    readonly model: SessionModel,
    readonly documents: Documents,
    readonly trans: TranslationBundle
  ) {}

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
      const saved = await this.model.client.save(message);
      this.model.setWritten(false);
      this._tellSkipped(saved.skipped);
      return true;
    } catch (error) {
      this.tell('error', trans.__('Not saved: %1', reason(error, trans)));
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
    const preview = await this._alone(() => this._preview(version, paths));
    if (preview && (await this._agreed(version, preview))) {
      // The documents again: the dialog may have been open for long.
      const done = await this._alone(() => this._bringBack(version.id, paths));
      if (done) {
        this._note(done, { version: done.undo, paths: done.restored });
      }
    }
  }

  private async _preview(version: ISnapshot, paths: string[]): Promise<IPreview | null> {
    const { trans } = this;
    if (!(await this._writeDocuments(this._notRestored))) {
      return null;
    }
    try {
      return await this.model.client.preview(version.id, paths);
    } catch (error) {
      this.tell('error', trans.__('Not restored: %1', reason(error, trans)));
      return null;
    }
  }

  private async _agreed(version: ISnapshot, preview: IPreview): Promise<boolean> {
    const { trans } = this;
    const something = preview.replaced.length + preview.new.length > 0;
    const answer = await showDialog({
      title: trans.__('Restore the version of %1', moment(version.time)),
      body: new Preview(preview, trans),
      buttons: something
        ? [Dialog.cancelButton(), Dialog.okButton({ label: trans.__('Restore') })]
        : [Dialog.okButton({ label: trans.__('Close') })]
    });
    return something && answer.button.accept;
  }

  /** Take the last restore back. That, too, saves what is there first. */
  async undo(): Promise<void> {
    const undo = this.notice?.undo;
    if (undo) {
      const done = await this._alone(() => this._bringBack(undo.version, undo.paths));
      if (done) {
        this._note(done);
      }
    }
  }

  /** Go on with the work under a key: its newest version comes here, what is here is saved first. */
  async resume(key: string): Promise<boolean> {
    const { trans } = this;
    return this._alone(async () => {
      if (!(await this._writeDocuments(this._notRestored))) {
        return false;
      }
      try {
        const found = await this.model.client.resume(key);
        if (found.restored) {
          await this.documents.revert(found.restored.restored);
          this._note(found.restored, { version: found.restored.undo, paths: found.restored.restored });
        } else {
          this.tell('warning', trans.__('This key holds no work of this course; it was made in %1.', found.made_for));
        }
        this.look();
        return found.restored !== null;
      } catch (error) {
        this.tell('error', trans.__('Not resumed: %1', reason(error, trans)));
        return false;
      }
    });
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
      this.tell('warning', trans.__('%1 was changed elsewhere too. This tab\'s edits are in the file now; the other version is in the history.', path));
    } catch (error) {
      const copy = await this.documents.copy(path);
      this.tell('warning', trans.__('%1 was changed elsewhere too. This tab\'s edits are in the file now; the other version is in %2.', path, copy));
    }
  }

  /** Tell what a save left out, once for each file and reason. */
  private _tellSkipped(skipped: ISkipped[]): void {
    const fresh = skipped
      .filter(item => !EXPECTED.includes(item.reason))
      .map(item => `${item.path}: ${item.reason}`)
      .filter(text => !this._told.has(text));
    fresh.forEach(text => this._told.add(text));
    if (fresh.length) {
      const { trans } = this;
      this.tell('warning', trans._n('Saved, without %1 file: %2', 'Saved, without %1 files: %2', fresh.length, fresh.slice(0, 3).join('; ') + (fresh.length > 3 ? ' …' : '')));
    }
  }

  private async _bringBack(version: string, paths: string[]): Promise<IRestored | null> {
    const { trans } = this;
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
      const done = await this.model.client.restore(version, paths);
      await this.documents.revert(done.restored);
      this.model.setWritten(false);
      this.look();
      return done;
    } catch (error) {
      this.tell('error', trans.__('Not restored: %1', reason(error, trans)));
      return null;
    } finally {
      wait.dispose();
    }
  }

  private _note(done: IRestored, undo?: INotice['undo']): void {
    const { trans } = this;
    const parts = [
      undo
        ? trans._n('%1 file restored.', '%1 files restored.', done.restored.length)
        : trans._n('Undone: %1 file is as it was.', 'Undone: %1 files are as they were.', done.restored.length)
    ];
    if (done.unchanged) {
      parts.push(trans._n('%1 was the same already.', '%1 were the same already.', done.unchanged));
    }
    if (done.failed.length) {
      const names = done.failed.map(item => `${item.path} (${item.reason})`).join(', ');
      parts.push(trans.__('Not restored: %1.', names));
    }
    if (done.not_stored.length) {
      parts.push(trans.__('Large files of the course that are not kept with your work: %1.', done.not_stored.join(', ')));
    }
    this.notice = { text: parts.join(' '), files: done.restored, undo: done.restored.length ? undo : undefined };
    this._noticed.emit();
  }

  private get _notRestored(): string {
    return this.trans.__('Nothing was restored: an open document could not be written.');
  }

  private _last: Promise<unknown> = Promise.resolve();
  private _told = new Set<string>();
  private _noticed = new Signal<this, void>(this);

  tell(type: 'error' | 'warning' | 'success', text: string): void {
    Notification.emit(text, type, { autoClose: type === 'error' ? false : 8000 });
  }
}
