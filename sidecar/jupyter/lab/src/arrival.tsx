/** The questions before somebody's work comes here: by a link, by a key, or from what this browser remembers. */

import { Dialog, ReactWidget, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IPreview, ISnapshot } from './api';
import { Changes } from './preview';
import { moment, size, stamp } from './words';

/** Ask whether to go on with saved work here. */
export async function askResume(version: ISnapshot, preview: IPreview, trans: TranslationBundle): Promise<boolean> {
  const answer = await showDialog({
    title: trans.__('Go on with your saved work?'),
    body: new Question(
      (
        <>
          <About version={version} trans={trans} />
          <Changes preview={preview} trans={trans} />
          <p>
            {trans.__('From then on this session saves there. Go on only if the link is your own: whoever else has it can read what you save.')}
          </p>
        </>
      )
    ),
    buttons: [
      Dialog.cancelButton({ label: trans.__('Not now') }),
      Dialog.okButton({ label: trans.__('Bring it here') })
    ]
  });
  return answer.button.accept;
}

/** Ask where a shared version is to go: null to leave it, '' in place of the student's files, else a folder's name. */
export async function askShow(
  version: ISnapshot,
  preview: IPreview,
  trans: TranslationBundle
): Promise<string | null> {
  const folder = `shared-${stamp(version.time)}`;
  const body = new Place(version, preview, folder, trans);
  const answer = await showDialog({
    title: trans.__('Look at shared work?'),
    body,
    buttons: [Dialog.cancelButton({ label: trans.__('Not now') }), Dialog.okButton({ label: trans.__('Show it') })]
  });
  return answer.button.accept ? body.chosen : null;
}

class Question extends ReactWidget {
  constructor(private readonly content: JSX.Element) {
    super();
    this.addClass('dm-Preview');
  }

  render(): JSX.Element {
    return this.content;
  }
}

class Place extends ReactWidget {
  constructor(
    private readonly version: ISnapshot,
    private readonly preview: IPreview,
    private readonly folder: string,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('dm-Preview');
  }

  /** Empty: in place of the student's files. */
  chosen = '';

  render(): JSX.Element {
    const { version, preview, folder, trans } = this;
    return <Choice {...{ version, preview, folder, trans }} choose={place => (this.chosen = place)} />;
  }
}

interface IChoiceProps {
  version: ISnapshot;
  preview: IPreview;
  folder: string;
  trans: TranslationBundle;
  choose: (place: string) => void;
}

function Choice({ version, preview, folder, trans, choose }: IChoiceProps): JSX.Element {
  const [place, setPlace] = React.useState('');
  const set = (chosen: string) => {
    setPlace(chosen);
    choose(chosen);
  };
  return (
    <>
      <About version={version} trans={trans} />
      <fieldset className="dm-Choice">
        <legend>{trans.__('Where?')}</legend>
        <label>
          <input type="radio" name="dm-place" checked={!place} onChange={() => set('')} />
          {trans.__('In place of my files, read-only: nothing is saved until I go back to mine')}
        </label>
        <label>
          <input type="radio" name="dm-place" checked={!!place} onChange={() => set(folder)} />
          {trans.__('In a new folder %1 beside my files', folder)}
        </label>
      </fieldset>
      {!place && <Changes preview={preview} trans={trans} shared />}
    </>
  );
}

function About({ version, trans }: { version: ISnapshot; trans: TranslationBundle }): JSX.Element {
  return (
    <p>
      {trans.__('Saved %1', moment(version.time))}
      {version.message ? trans.__(', “%1”', version.message) : ''}:{' '}
      {trans._n('%1 file', '%1 files', version.files)}, {size(version.bytes)}.
    </p>
  );
}
