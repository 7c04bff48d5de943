/** A side panel, and the small parts that panels are made of. */

import { Clipboard, ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import { ISignal, Signal } from '@lumino/signaling';
import React from 'react';

/** Of the names in one list. */
export const MOST_SHOWN = 500;

interface IOptions {
  id: string;
  icon: LabIcon;
  caption: string;
  /** Called with the panel to draw its content. */
  content: (panel: Panel) => JSX.Element;
}

export class Panel extends ReactWidget {
  constructor(private readonly options: IOptions) {
    super();
    this.id = options.id;
    this.title.icon = options.icon;
    this.title.caption = options.caption;
    this.addClass('dm-Panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', options.caption);
  }

  /** It came into view: what it shows may be old. */
  get shown(): ISignal<this, void> {
    return this._shown;
  }

  render(): JSX.Element {
    return this.options.content(this);
  }

  protected onAfterShow(): void {
    this._shown.emit();
  }

  private _shown = new Signal<this, void>(this);
}

/** A button that copies a text, and says so to those who see and to those who hear. */
export function Copy({ text, label, trans }: { text: string; label: string; trans: TranslationBundle }): JSX.Element {
  const [copied, setCopied] = React.useState(false);
  const copy = () => {
    Clipboard.copyToSystem(text);
    setCopied(true);
    window.setTimeout(() => setCopied(false), 3000);
  };
  return (
    <>
      <button type="button" className="dm-Button" aria-label={label} onClick={copy}>
        {copied ? trans.__('Copied') : trans.__('Copy')}
      </button>
      <span className="dm-Hidden" role="status">
        {copied ? trans.__('Copied') : ''}
      </span>
    </>
  );
}

/** A list that is folded away, with its length in the heading; nothing where it is empty. */
export function Folded({ title, items }: { title: string; items: string[] }): JSX.Element | null {
  if (!items.length) {
    return null;
  }
  return (
    <details className="dm-Folded">
      <summary>{title}</summary>
      <ul>
        {items.slice(0, MOST_SHOWN).map(item => (
          <li key={item}>{item}</li>
        ))}
        {items.length > MOST_SHOWN && <li>…</li>}
      </ul>
    </details>
  );
}
