/** Save, state, history and data in JupyterLab and Notebook 7. */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry, Notification } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import React from 'react';

import { Client } from './api';
import { Actions, DATA, HISTORY, SAVE, SAVE_WITH_MESSAGE } from './commands';
import { Data } from './data';
import { Documents } from './documents';
import { History } from './history';
import { dataIcon, historyIcon, saveIcon } from './icons';
import { arrived, kept } from './link';
import { SessionModel } from './model';
import { Panel } from './panel';
import { TopBar, standIn } from './topbar';
import { Warnings } from './warnings';

const LOOK_MILLISECONDS = 1000;

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'datamount:plugin',
  description: 'Save, history and data of a datamount session.',
  autoStart: true,
  requires: [IDocumentManager, IToolbarWidgetRegistry],
  optional: [ITranslator, ICommandPalette, IRenderMimeRegistry],
  activate: (
    app: JupyterFrontEnd,
    manager: IDocumentManager,
    toolbars: IToolbarWidgetRegistry,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    rendermime: IRenderMimeRegistry | null
  ) => {
    const trans = (translator ?? nullTranslator).load('datamount');
    const { commands } = app;
    const model = new SessionModel(new Client());
    const documents = new Documents(app, manager);
    const actions = new Actions(model, documents, trans);
    const ours = () => model.link === 'connected' && !model.readOnly;
    new Warnings(model, trans);

    commands.addCommand(SAVE, {
      label: trans.__('Save to Storage'),
      caption: trans.__('Save all open documents, then all files, to the storage'),
      icon: saveIcon,
      isEnabled: ours,
      execute: () => actions.save()
    });
    commands.addCommand(SAVE_WITH_MESSAGE, {
      label: trans.__('Save to Storage with a Note…'),
      isEnabled: ours,
      execute: () => actions.saveWithMessage()
    });
    const history = new Panel({
      id: 'datamount-history',
      icon: historyIcon,
      caption: trans.__('Saved work and history'),
      content: panel => React.createElement(History, { actions, panel, rendermime })
    });
    const data = new Panel({
      id: 'datamount-data',
      icon: dataIcon,
      caption: trans.__('Data of the course'),
      content: panel => React.createElement(Data, { actions, panel })
    });
    app.shell.add(history, 'right', { rank: 900, type: 'History' });
    app.shell.add(data, 'right', { rank: 901, type: 'Data' });
    commands.addCommand(HISTORY, {
      label: trans.__('Saved Work and History'),
      icon: historyIcon,
      execute: () => app.shell.activateById(history.id)
    });
    commands.addCommand(DATA, {
      label: trans.__('Data of the Course'),
      icon: dataIcon,
      execute: () => app.shell.activateById(data.id)
    });
    for (const command of [SAVE, SAVE_WITH_MESSAGE, HISTORY, DATA]) {
      palette?.addItem({ command, category: trans.__('Saved Work and Data') });
    }
    toolbars.addFactory('TopBar', 'datamount', () => {
      const bar = { model, commands, trans };
      const top = new TopBar(bar);
      standIn(app, top, bar);
      return top;
    });

    let enabled = ours();
    model.changed.connect(() => {
      if (ours() !== enabled) {
        enabled = ours();
        commands.notifyCommandChanged(SAVE);
        commands.notifyCommandChanged(SAVE_WITH_MESSAGE);
      }
    });
    void welcome(app, actions);
    // No one signal tells of every open document's edits, also of those that extensions open.
    window.setInterval(() => actions.look(), LOOK_MILLISECONDS);
    app.serviceManager.connectionFailure.connect(() => model.doubt());
    app.serviceManager.contents.fileChanged.connect(() => model.setWritten(true));
    window.addEventListener('beforeunload', event => {
      actions.look();
      if (model.atRisk()) {
        event.preventDefault();
        event.returnValue = '';
      }
    });
  }
};

/** Offer what this page was opened with, else what this browser remembers of the course. */
async function welcome(app: JupyterFrontEnd, actions: Actions): Promise<void> {
  const { resumption, trans, model } = actions;
  await app.restored;
  if (arrived === '') {
    const lost = trans.__('The key of your link is missing: signing in may have lost it. Open it once more, the whole of it.');
    Notification.warning(lost, { autoClose: false });
  }
  await new Promise<void>(resolve => {
    const look = () => {
      if (resumption.found) {
        resumption.changed.disconnect(look);
        resolve();
      }
    };
    resumption.changed.connect(look);
    look();
  });
  if (arrived) {
    await actions.offer(arrived);
    return;
  }
  const { kind, key } = resumption.found!;
  const known = kind === 'work-key' && !key ? kept(model.status!.save.course) : '';
  if (known) {
    Notification.info(trans.__('This browser remembers earlier work of yours in this course.'), {
      autoClose: false,
      actions: [{ label: trans.__('Show what it holds'), callback: () => void actions.offer(known) }]
    });
  }
}

export default plugin;
