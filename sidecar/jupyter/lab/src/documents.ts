/** The documents that are open in this browser tab. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { PathExt } from '@jupyterlab/coreutils';
import type { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { Contents } from '@jupyterlab/services';

type Context = DocumentRegistry.Context;

/** Milliseconds that a file's time may differ without having been changed; as in Jupyter's own check. */
const CLOCK_MARGIN = 500;
/** Milliseconds to wait for documents that are still being opened. */
const OPENING = 10000;

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
      .filter(context => context.isReady && context.model.dirty && context.contentsModel?.writable)
      .map(context => context.path)
      .sort();
  }

  /**
   * Write all open documents to their files, without Jupyter's question "the file has changed on disk".
   *
   * A document that was changed elsewhere too (another tab, a program) is first given to `keep`, with its file still as
   * the others left it; then this tab's edits are written. One without edits here shows what is in the file now.
   * Throws when a document could not be written.
   */
  async save(keep: (path: string) => Promise<void>): Promise<void> {
    await this.opened();
    for (const context of this.all()) {
      if (await this.changedElsewhere(context)) {
        if (context.model.dirty) {
          await keep(context.path);
          await this.overwrite(context);
        }
        await context.revert();
      }
    }
    await this.write();
    // Typed while it was being written, or the kernel has just told its language.
    await this.write();
  }

  /** As Jupyter's "Save All", which also writes what has not changed and warns of each document that is read-only. */
  private async write(): Promise<void> {
    const unsaved = this.unsaved();
    await Promise.all(this.all().filter(context => unsaved.includes(context.path)).map(context => context.save()));
  }

  /** One that is still being opened may have edits already: the kernel's language. */
  private async opened(): Promise<void> {
    const late = new Promise(resolve => setTimeout(resolve, OPENING));
    await Promise.race([late, Promise.allSettled(this.all().map(context => context.ready))]);
  }

  /** Put a copy of the file beside it. */
  async copy(path: string): Promise<void> {
    await this.manager.services.contents.copy(path, PathExt.dirname(path));
  }

  private async changedElsewhere(context: Context): Promise<boolean> {
    const known = context.contentsModel;
    if (!known?.writable) {
      return false;
    }
    try {
      const { contents } = this.manager.services;
      // Servers before 2.11 know of no hash and leave it out.
      const options = { content: false, hash: true } as Contents.IFetchOptions;
      const now = (await contents.get(context.path, options)) as Contents.IModel & { hash?: string };
      const { hash } = known as { hash?: string };
      return hash && now.hash
        ? hash !== now.hash
        : Date.parse(now.last_modified) - Date.parse(known.last_modified) > CLOCK_MARGIN;
    } catch (error) {
      // Deleted, or no answer: saving it tells.
      return false;
    }
  }

  private async overwrite(context: Context): Promise<void> {
    const { model, path } = context;
    const { type, format } = context.contentsModel!;
    const content = format === 'json' ? model.toJSON() : model.toString();
    await this.manager.services.contents.save(path, { type, format, content });
  }

  /** Show what is in the files now, in place: Jupyter's question "the file has changed" does not come up. */
  async revert(paths: string[]): Promise<void> {
    const wanted = this.all().filter(context => this.isOne(context, paths));
    // Jupyter itself tells of one that cannot be read.
    await Promise.allSettled(wanted.map(context => context.revert()));
  }

  /** Close documents whose files are gone: the next "save all" would write them again. */
  close(paths: string[]): void {
    for (const widget of [...this.app.shell.widgets('main')]) {
      const context = this.manager.contextForWidget(widget);
      if (context && this.isOne(context, paths)) {
        widget.dispose();
      }
    }
  }

  private isOne(context: Context, paths: string[]): boolean {
    const path = this.manager.services.contents.localPath(context.path);
    // The session's folder may lie below Jupyter's root.
    return paths.some(one => path === one || path.endsWith(`/${one}`));
  }

  /** The language of the kernel of the document that is in front, such as "python"; null where there is none. */
  async language(): Promise<string | null> {
    const widget = this.app.shell.currentWidget;
    const context = widget && this.manager.contextForWidget(widget);
    const info = await context?.sessionContext?.session?.kernel?.info;
    return info?.language_info.name.toLowerCase() ?? null;
  }
}
