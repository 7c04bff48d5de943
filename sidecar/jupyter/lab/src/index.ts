/** Save, state, history and data in JupyterLab and Notebook 7. */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { Client } from './api';
import { Actions, SAVE, SAVE_WITH_MESSAGE } from './commands';
import { Documents } from './documents';
import { saveIcon } from './icons';
import { SessionModel } from './model';
import { TopBar } from './topbar';

const LOOK_MILLISECONDS = 1000;

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'datamount:plugin',
  description: 'Save, history and data of a datamount session.',
  autoStart: true,
  requires: [IDocumentManager, IToolbarWidgetRegistry],
  optional: [ITranslator, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    manager: IDocumentManager,
    toolbars: IToolbarWidgetRegistry,
    translator: ITranslator | null,
    palette: ICommandPalette | null
  ) => {
    const trans = (translator ?? nullTranslator).load('datamount');
    const { commands } = app;
    const model = new SessionModel(new Client());
    const documents = new Documents(app, manager);
    const actions = new Actions(model, documents, trans);
    const connected = () => model.link === 'connected';

    commands.addCommand(SAVE, {
      label: trans.__('Save to Storage'),
      caption: trans.__('Save all open documents, then all files, to the storage'),
      icon: saveIcon,
      isEnabled: connected,
      execute: () => actions.save()
    });
    commands.addCommand(SAVE_WITH_MESSAGE, {
      label: trans.__('Save to Storage with a Note…'),
      isEnabled: connected,
      execute: () => actions.saveWithMessage()
    });
    for (const command of [SAVE, SAVE_WITH_MESSAGE]) {
      palette?.addItem({ command, category: trans.__('Saved Work and Data') });
    }
    toolbars.addFactory('TopBar', 'datamount', () => new TopBar({ model, commands, trans }));

    let link = model.link;
    model.changed.connect(() => {
      if (model.link !== link) {
        link = model.link;
        commands.notifyCommandChanged();
      }
    });
    // No one signal tells of every open document's edits, also of those that extensions open.
    const look = () => model.setUnsaved(documents.unsaved());
    window.setInterval(look, LOOK_MILLISECONDS);
    window.addEventListener('beforeunload', event => {
      look();
      if (model.atRisk()) {
        event.preventDefault();
        event.returnValue = '';
      }
    });
  }
};

export default plugin;
