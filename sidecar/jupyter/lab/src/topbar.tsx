/** The Save button and the state beside it, always visible. */

import { ReactWidget } from '@jupyterlab/apputils';
import type { CommandRegistry } from '@lumino/commands';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import { HISTORY, SAVE } from './commands';
import { SIGNS, saveIcon } from './icons';
import type { SessionModel } from './model';
import { useModel } from './react';
import { describe } from './words';

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

  render(): JSX.Element {
    return <Bar {...this.props} />;
  }
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
        {trans.__('Save')}
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
