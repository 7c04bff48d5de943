/** The Save button and the state beside it, always visible: in the top bar, or in the menu bar where that is hidden. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { ReactWidget } from '@jupyterlab/apputils';
import type { CommandRegistry } from '@lumino/commands';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Message } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';
import React from 'react';

import { HISTORY, SAVE } from './commands';
import { SIGNS, saveIcon } from './icons';
import type { SessionModel } from './model';
import { useModel } from './react';
import { describe } from './words';

/** Of Notebook 7's shell. */
const HEADER = 'top-panel-wrapper';
/** In Notebook 7: between the space after the menus and what it says of the kernel. */
const AFTER_THE_MENUS = 950;

interface IProps {
  model: SessionModel;
  commands: CommandRegistry;
  trans: TranslationBundle;
}

export class TopBar extends ReactWidget {
  constructor(private readonly props: IProps) {
    super();
    this.id = 'datamount-topbar';
    this.addClass('dm-TopBar');
  }

  /** It came into view, or went. */
  get shownOrHidden(): ISignal<this, void> {
    return this._shownOrHidden;
  }

  render(): JSX.Element {
    return <Bar {...this.props} />;
  }

  protected onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._shownOrHidden.emit();
  }

  protected onAfterDetach(message: Message): void {
    super.onAfterDetach(message);
    this._shownOrHidden.emit();
  }

  protected onAfterShow(): void {
    this._shownOrHidden.emit();
  }

  protected onAfterHide(): void {
    this._shownOrHidden.emit();
  }

  private _shownOrHidden = new Signal<this, void>(this);
}

/** While `top` is not seen, another one in the menu bar: Notebook 7 hides its header in narrow windows. */
export function standIn(app: JupyterFrontEnd, top: TopBar, props: IProps): void {
  let other: TopBar | null = null;
  const follow = () => {
    const missed = inHiddenHeader(top);
    if (missed && !other) {
      other = new TopBar(props);
      other.id = 'datamount-menubar';
      app.shell.add(other, 'menu', { rank: AFTER_THE_MENUS });
    } else if (!missed && other) {
      other.dispose();
      other = null;
    }
  };
  void app.restored.then(() => {
    top.shownOrHidden.connect(follow);
    follow();
  });
}

/** Not whether it is seen: while a toolbar is made, and where it is too narrow, its items are elsewhere for a moment. */
function inHiddenHeader(widget: Widget): boolean {
  for (let above = widget.parent; above; above = above.parent) {
    if (above.id === HEADER) {
      return above.isHidden;
    }
  }
  return false;
}

function Bar({ model, commands, trans }: IProps): JSX.Element {
  useModel(model);
  const state = describe(model, trans);
  const available = model.link === 'connected';
  const left = model.minutesLeft();
  const save = model.readOnly
    ? trans.__('This is a read-only share: nothing is saved until you go back to your own files (see the history)')
    : trans.__('Save all open documents, then all files, to the storage (%1)', 'Ctrl/⌘ Alt S');
  const Sign = SIGNS[state.mood].react;
  return (
    <>
      <button
        type="button"
        className="dm-Button dm-mod-main dm-Save"
        title={save}
        disabled={model.busy || !available || model.readOnly}
        onClick={() => void commands.execute(SAVE)}
      >
        <saveIcon.react tag="span" className="dm-Icon" />
        <span className="dm-Save-text">{trans.__('Save')}</span>
      </button>
      <button
        type="button"
        className="dm-State"
        data-mood={state.mood}
        title={state.long}
        aria-label={trans.__('%1 Open the history.', state.long || state.short)}
        onClick={() => void commands.execute(HISTORY)}
      >
        <Sign tag="span" className="dm-Icon" />
        <span className="dm-State-text">{state.short}</span>
      </button>
      {left !== null && <Ends minutes={left} trans={trans} />}
      <span className="dm-Hidden" role="status" aria-live="polite">
        {state.short}
      </span>
    </>
  );
}

/** How long the session still lasts; fewer words where the window is narrow. */
function Ends({ minutes, trans }: { minutes: number; trans: TranslationBundle }): JSX.Element {
  const text = trans._n('Session ends in %1 minute', 'Session ends in %1 minutes', minutes);
  return (
    <span className="dm-Ends" title={text}>
      <SIGNS.bad.react tag="span" className="dm-Icon" />
      <span className="dm-Ends-long">{text}</span>
      <span className="dm-Ends-short" aria-hidden="true">
        {trans.__('%1 min', minutes)}
      </span>
    </span>
  );
}
