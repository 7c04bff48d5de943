/** Whose the work of this session is, and what it takes to come back to it. */

import { ISignal, Signal } from '@lumino/signaling';

import type { IResumeKey } from './api';
import { keep } from './link';
import type { SessionModel } from './model';

export class Resumption {
  constructor(private readonly model: SessionModel) {
    const look = () => void this._look();
    model.saved.connect(look);
    model.changed.connect(look);
    look();
  }

  /** Null until it is known. */
  found: IResumeKey | null = null;

  /** `found` has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Ask again: the session may go on with other work now. */
  again(): void {
    this.found = null;
    void this._look();
  }

  /** Ask what is not known yet. The key comes with the first save, and stays. */
  private async _look(): Promise<void> {
    const { model, found } = this;
    const last = model.status?.save.last?.id ?? '';
    const open = found === null || (found.kind === 'work-key' && !found.key && last !== this._asked);
    if (model.link !== 'connected' || !open || this._asking) {
      return;
    }
    this._asking = true;
    try {
      this.found = await model.client.resumeKey();
      this._asked = last;
      if (this.found.key) {
        keep(model.status!.save.course, this.found.key);
      }
      this._changed.emit();
    } catch (error) {
      // A store that is down: the next change of the state asks again.
      console.debug('datamount', error);
    } finally {
      this._asking = false;
    }
  }

  private _asked = '';
  private _asking = false;
  private _changed = new Signal<this, void>(this);
}
