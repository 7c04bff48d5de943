import { LabIcon } from '@jupyterlab/ui-components';

function icon(name: string, body: string): LabIcon {
  const svgstr = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24"><g class="jp-icon3" fill="#616161">${body}</g></svg>`;
  return new LabIcon({ name: `datamount:${name}`, svgstr });
}

/** A cloud with an arrow into it. */
export const saveIcon = icon(
  'save',
  '<path d="M19.35 10.04A7.49 7.49 0 0 0 12 4a7.5 7.5 0 0 0-6.65 4.04A6 6 0 0 0 6 20h13a5 5 0 0 0 .35-9.96zM14 13v4h-4v-4H7l5-5 5 5h-3z"/>'
);
/** A clock that runs backwards. */
export const historyIcon = icon(
  'history',
  '<path d="M13 3a9 9 0 0 0-9 9H1l3.9 3.9L9 12H6a7 7 0 1 1 2.05 4.95l-1.42 1.41A9 9 0 1 0 13 3zm-1 5v5l4.25 2.52.75-1.23-3.5-2.08V8z"/>'
);
/** A stack of disks. */
export const dataIcon = icon(
  'data',
  '<path d="M12 3C7.6 3 4 4.3 4 6s3.600 3 8 3 8-1.300 8-3-3.600-3-8-3zM4 8.500V12c0 1.700 3.600 3 8 3s8-1.300 8-3V8.500C18.700 10 15.600 11 12 11s-6.700-1-8-2.500zm0 6V18c0 1.700 3.600 3 8 3s8-1.300 8-3v-3.500c-1.300 1.500-4.400 2.500-8 2.500s-6.700-1-8-2.500z"/>'
);

/** The sign before a state: its shape tells the mood without its colour. */
export const SIGNS = {
  good: icon('good', '<path d="M9 16.200 4.800 12l-1.400 1.400L9 19 21 7l-1.400-1.400z"/>'),
  pending: icon('pending', '<circle cx="12" cy="12" r="6"/>'),
  busy: icon('busy', '<path d="M12 4V1L8 5l4 4V6a6 6 0 0 1 5.300 8.800l1.460 1.460A8 8 0 0 0 12 4zm0 14a6 6 0 0 1-5.300-8.800L5.240 7.740A8 8 0 0 0 12 20v3l4-4-4-4z"/>'),
  bad: icon('bad', '<path d="M1 21h22L12 2zm12-3h-2v-2h2zm0-4h-2v-4h2z"/>'),
  none: icon('none', '<path d="M12 6a6 6 0 1 0 0 12 6 6 0 0 0 0-12zm0 10a4 4 0 1 1 0-8 4 4 0 0 1 0 8z"/>')
};
