/** What the student is told without having asked: files left out, little room, a session that ends. Each once. */

import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { SessionModel } from './model';
import { clock, taken } from './words';

/** Reasons to leave a file out that no student needs to hear of; the panel lists them all the same. */
const EXPECTED = ['a cache', "the link to the course's data", 'excluded by the course', "datamount's own"];
/** Minutes before the end at which it is said. */
const BEFORE_THE_END = [15, 5];
const AUTO_CLOSE = 8000;

export class Warnings {
  constructor(
    private readonly model: SessionModel,
    private readonly trans: TranslationBundle
  ) {
    model.changed.connect(() => this._look());
    model.saved.connect(() => this._tellSkipped());
  }

  private _look(): void {
    const { model, trans } = this;
    const save = model.status?.save;
    // What there was no room for is told with its name.
    if (save?.quota?.near && !save.last?.too_large?.length && !this._told.has('quota')) {
      this._told.add('quota');
      Notification.warning(taken(save.quota, trans), { autoClose: AUTO_CLOSE });
    }
    const left = model.minutesLeft();
    const due = left === null ? undefined : BEFORE_THE_END.filter(minutes => left <= minutes).pop();
    if (due !== undefined && !this._told.has(`end ${due}`)) {
      BEFORE_THE_END.filter(minutes => minutes >= due).forEach(minutes => this._told.add(`end ${minutes}`));
      const at = clock(model.status!.session!.ends_at!);
      Notification.warning(trans.__('This session ends at %1. Save before that.', at), {
        autoClose: false
      });
    }
  }

  /** Tell what the last save left out, each file and reason once. */
  private _tellSkipped(): void {
    const { model, trans } = this;
    const fresh = (model.status?.save.last?.skipped ?? [])
      .filter(item => !EXPECTED.includes(item.reason))
      .map(item => `${item.path}: ${item.reason}`)
      .filter(text => !this._told.has(text));
    fresh.forEach(text => this._told.add(text));
    if (fresh.length) {
      const some = fresh.slice(0, 3).join('; ') + (fresh.length > 3 ? ' …' : '');
      const text = trans._n('Saved, without %1 file: %2', 'Saved, without %1 files: %2', fresh.length, some);
      Notification.warning(text, { autoClose: AUTO_CLOSE });
    }
  }

  private _told = new Set<string>();
}
