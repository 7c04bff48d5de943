/** The Data panel: each dataset of the course, its state, where it is and how to read it. */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import type { IDataset } from './api';
import type { Actions } from './commands';
import { SIGNS } from './icons';
import { Copy, Folded, Panel } from './panel';
import { useModel } from './react';
import { LANGUAGES, Language, snippet } from './snippets';
import { Mood, describe, explain, moment, size } from './words';

const MOODS: Record<IDataset['state'], Mood> = {
  ready: 'good',
  pending: 'busy',
  fetching: 'busy',
  partial: 'bad',
  failed: 'bad'
};

export function Data({ actions, panel }: { actions: Actions; panel: Panel }): JSX.Element {
  const { model, trans } = actions;
  useModel(model);
  const [language, setLanguage] = useLanguage(actions, panel);
  const data = model.status?.data;
  const datasets = Object.entries(data?.datasets ?? {});
  return (
    <>
      <h2>{trans.__('Data')}</h2>
      {model.link !== 'connected' && (
        <p>{model.link === 'asking' ? trans.__('Nothing is known of the data yet.') : describe(model, trans).long}</p>
      )}
      {data?.error && (
        <p className="dm-Fault" role="alert">
          {explain(data.error, trans)}
        </p>
      )}
      {model.link === 'connected' && !data && <p>{trans.__('The data is being looked up …')}</p>}
      {data && !data.error && !datasets.length && <p>{trans.__('This course declares no data.')}</p>}
      {datasets.length > 0 && (
        <label>
          {trans.__('Show code for')}
          <select className="dm-Input" value={language} onChange={event => setLanguage(event.target.value as Language)}>
            {Object.entries(LANGUAGES).map(([key, title]) => (
              <option key={key} value={key}>
                {title}
              </option>
            ))}
          </select>
        </label>
      )}
      {datasets.map(([name, dataset]) => (
        <Dataset key={name} name={name} dataset={dataset} language={language} trans={trans} />
      ))}
    </>
  );
}

interface IProps {
  name: string;
  dataset: IDataset;
  language: Language;
  trans: TranslationBundle;
}

function Dataset({ name, dataset, language, trans }: IProps): JSX.Element {
  const Sign = SIGNS[MOODS[dataset.state]].react;
  const code = snippet(name, dataset, language);
  const folder = dataset.path;
  return (
    <section className="dm-Dataset" aria-label={name} data-dataset={name}>
      <h3>
        {name}
        {dataset.title && <span className="dm-Dataset-title"> {dataset.title}</span>}
      </h3>
      <p className="dm-Now" data-mood={MOODS[dataset.state]}>
        <Sign tag="span" className="dm-Icon" />
        <span>{progress(dataset, trans)}</span>
      </p>
      {dataset.state === 'fetching' && dataset.bytes_total !== null && (
        <progress
          className="dm-Progress"
          aria-label={trans.__('Fetching %1', name)}
          max={dataset.bytes_total || 1}
          value={dataset.bytes_done}
        />
      )}
      {dataset.error && <p className="dm-Fault">{explain(dataset.error, trans)}</p>}
      {dataset.warnings.map(text => (
        <p className="dm-Warning" key={text}>
          {text}
        </p>
      ))}
      <dl>
        {folder && (
          <Row term={trans.__('Folder')}>
            <code>{folder}</code> <Copy text={folder} label={trans.__('Copy the folder of %1', name)} trans={trans} />
          </Row>
        )}
        {dataset.files_total !== null && (
          <Row term={trans.__('Size')}>
            {size(dataset.bytes_total ?? dataset.bytes_done)},{' '}
            {trans._n('%1 file', '%1 files', dataset.files_total)}
          </Row>
        )}
        {dataset.pin && (pinned(dataset.pin) || dataset.locked) && (
          <Row term={trans.__('Version')}>
            {pinned(dataset.pin)}
            {dataset.locked ? ` (${trans.__('pinned by the course')})` : ''}
          </Row>
        )}
        {dataset.license && <Row term={trans.__('Licence')}>{dataset.license}</Row>}
        {dataset.citation && (
          <Row term={trans.__('Cite as')}>
            {dataset.citation}{' '}
            <Copy text={dataset.citation} label={trans.__('Copy the citation of %1', name)} trans={trans} />
          </Row>
        )}
      </dl>
      <Folded
        title={trans.__('Variables (%1)', Object.keys(dataset.variables).length)}
        items={Object.entries(dataset.variables).map(([key, value]) => `${key} = ${value}`)}
      />
      <div className="dm-Code">
        <pre tabIndex={0} aria-label={trans.__('Code that reads %1', name)}>
          {code}
        </pre>
        <Copy text={code} label={trans.__('Copy the code that reads %1', name)} trans={trans} />
      </div>
    </section>
  );
}

function Row({ term, children }: { term: string; children: React.ReactNode }): JSX.Element {
  return (
    <>
      <dt>{term}</dt>
      <dd>{children}</dd>
    </>
  );
}

/** The state with bytes and the time left, as far as they are known. */
function progress(dataset: IDataset, trans: TranslationBundle): string {
  const { bytes_done: done, bytes_total: total, seconds } = dataset;
  switch (dataset.state) {
    case 'ready':
      return trans.__('Ready');
    case 'pending':
      return trans.__('Waiting to be fetched');
    case 'partial':
      return trans.__('Partly there: %1 of %2 files', dataset.files_done, dataset.files_total ?? '?');
    case 'failed':
      return dataset.optional ? trans.__('Not there (the course can do without)') : trans.__('Not there');
    case 'fetching': {
      if (!total) {
        return trans.__('Fetching: %1', size(done));
      }
      const percent = Math.floor((100 * done) / total);
      const left = done > 0 && seconds > 1 ? ((total - done) * seconds) / done : null;
      const bytes = trans.__('Fetching: %1 % (%2 of %3)', percent, size(done), size(total));
      return left === null ? bytes : `${bytes}, ${duration(left, trans)}`;
    }
  }
}

function duration(seconds: number, trans: TranslationBundle): string {
  if (seconds < 60) {
    return trans.__('less than a minute left');
  }
  const minutes = Math.round(seconds / 60);
  return trans._n('about %1 minute left', 'about %1 minutes left', minutes);
}

/** What a pin names, long values shortened; its size is said beside. */
function pinned(pin: Record<string, unknown>): string {
  return Object.entries(pin)
    .filter(([key, value]) => key !== 'size' && (typeof value === 'string' || typeof value === 'number'))
    .map(([key, value]) => `${key.replace(/_/g, ' ')} ${shortened(String(value))}`)
    .join(', ');
}

function shortened(value: string): string {
  return /^\d{4}-\d\d-\d\dT/.test(value) ? moment(value) : value.replace(/^(.{12}).{6,}$/, '$1…');
}

/** The kernel's language at first and each time the panel comes into view; the student's choice after that. */
function useLanguage(actions: Actions, panel: Panel): [Language, (language: Language) => void] {
  const [language, setLanguage] = React.useState<Language>('python');
  React.useEffect(() => {
    const look = async () => {
      const found = await actions.documents.language();
      if (found && found in LANGUAGES) {
        setLanguage(found as Language);
      }
    };
    const again = () => void look();
    again();
    panel.shown.connect(again);
    return () => {
      panel.shown.disconnect(again);
    };
  }, []);
  return [language, setLanguage];
}
