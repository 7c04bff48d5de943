/** The documents that are open in this browser tab. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentRegistry } from '@jupyterlab/docregistry';

type Context = DocumentRegistry.Context;

export class Documents {
  constructor(
    private readonly app: JupyterFrontEnd,
    private readonly manager: IDocumentManager
  ) {}

  /** Each open document once, however many views it has. */
  all(): Context[] {
    const found = new Set<Context>();
    for (const widget of this.app.shell.widgets('main')) {
      const context = this.manager.contextForWidget(widget);
      if (context) {
        found.add(context);
      }
    }
    return [...found];
  }

  /** Paths of the documents whose edits are in this tab only. */
  unsaved(): string[] {
    return this.all()
      .filter(context => context.model.dirty && context.contentsModel?.writable !== false)
      .map(context => context.path)
      .sort();
  }

  /**
   * Write all open documents to their files. Throws when one could not be written, or when the student answered
   * Jupyter's own question with "Cancel".
   */
  async save(): Promise<void> {
    await this.app.commands.execute('docmanager:save-all');
    const left = this.unsaved();
    if (left.length) {
      throw new Error(left.join(', '));
    }
  }

  /** Show what is in the files now, in place: Jupyter's question "the file has changed" does not come up. */
  async revert(paths: string[]): Promise<void> {
    const wanted = this.all().filter(context => {
      const path = this.manager.services.contents.localPath(context.path);
      // The session's folder may lie below Jupyter's root.
      return paths.some(restored => path === restored || path.endsWith(`/${restored}`));
    });
    await Promise.all(wanted.map(context => context.revert()));
  }

  /** The language of the kernel of the document that is in front, such as "python"; null where there is none. */
  async language(): Promise<string | null> {
    const widget = this.app.shell.currentWidget;
    const context = widget && this.manager.contextForWidget(widget);
    const info = await context?.sessionContext?.session?.kernel?.info;
    return info?.language_info.name.toLowerCase() ?? null;
  }
}
