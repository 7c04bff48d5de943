/** What the student can do, however they do it: button, menu, palette, shortcut or panel. */

import { InputDialog, Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { Documents } from './documents';
import type { SessionModel } from './model';
import { reason } from './words';

export const SAVE = 'datamount:save';
export const SAVE_WITH_MESSAGE = 'datamount:save-with-message';
export const HISTORY = 'datamount:history';
export const DATA = 'datamount:data';

export class Actions {
  constructor(
    readonly model: SessionModel,
    readonly documents: Documents,
    readonly trans: TranslationBundle
  ) {}

  /** Write the open documents to their files, then save all files. Resolves when that is durable, or told why not. */
  async save(message = ''): Promise<boolean> {
    const { trans } = this;
    try {
      await this.documents.save();
    } catch (error) {
      this.tell('error', trans.__('Not saved: an open document could not be written (%1).', reason(error, trans)));
      return false;
    }
    try {
      const saved = await this.model.client.save(message);
      const left = saved.skipped.length;
      if (left) {
        const text = trans._n('Saved, without %1 file. History says which and why.', 'Saved, without %1 files. History says which and why.', left);
        this.tell('warning', text);
      }
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

  tell(type: 'error' | 'warning' | 'success', text: string): void {
    Notification.emit(text, type, { autoClose: type === 'error' ? false : 8000 });
  }
}
