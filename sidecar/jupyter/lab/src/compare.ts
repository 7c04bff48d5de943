/** What differs between two texts by line, and between two notebooks by cell. */

/** A line of a text that is only before (-), only after (+) or in both ( ). */
export interface ILine {
  sign: '-' | '+' | ' ';
  text: string;
}

export interface ICell {
  kind: 'added' | 'removed' | 'changed' | 'outputs';
  /** "code", "markdown" or "raw". */
  type: string;
  /** Its place in the notebook, from 1; of the older one where it was removed. */
  number: number;
  lines: ILine[];
}

interface INotebookCell {
  id?: string;
  cell_type: string;
  source: string | string[];
  outputs?: unknown[];
}

const MOST_COMPARISONS = 4_000_000;
const CONTEXT_LINES = 3;

/**
 * Pairs of places that belong together, in order; -1 stands for none. The longest common subsequence, but for lists
 * so long that it would hold up the browser: there everything between the common ends counts as replaced.
 */
export function align<T>(before: T[], after: T[], same: (one: T, other: T) => boolean): [number, number][] {
  let start = 0;
  while (start < before.length && start < after.length && same(before[start], after[start])) {
    start += 1;
  }
  let endBefore = before.length;
  let endAfter = after.length;
  while (endBefore > start && endAfter > start && same(before[endBefore - 1], after[endAfter - 1])) {
    endBefore -= 1;
    endAfter -= 1;
  }
  const pairs: [number, number][] = [];
  for (let at = 0; at < start; at += 1) {
    pairs.push([at, at]);
  }
  pairs.push(...middle(before, after, same, start, endBefore, endAfter));
  for (let at = 0; endBefore + at < before.length; at += 1) {
    pairs.push([endBefore + at, endAfter + at]);
  }
  return pairs;
}

function middle<T>(
  before: T[],
  after: T[],
  same: (one: T, other: T) => boolean,
  start: number,
  endBefore: number,
  endAfter: number
): [number, number][] {
  const rows = endBefore - start;
  const columns = endAfter - start;
  const pairs: [number, number][] = [];
  const short = rows * columns <= MOST_COMPARISONS;
  const width = columns + 1;
  // lengths[i * width + j]: of the longest common subsequence of what comes from i and j on.
  const lengths = short ? new Uint16Array((rows + 1) * width) : null;
  if (lengths) {
    for (let i = rows - 1; i >= 0; i -= 1) {
      for (let j = columns - 1; j >= 0; j -= 1) {
        lengths[i * width + j] = same(before[start + i], after[start + j])
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      }
    }
  }
  let i = 0;
  let j = 0;
  while (i < rows || j < columns) {
    if (lengths && i < rows && j < columns && same(before[start + i], after[start + j])) {
      pairs.push([start + i++, start + j++]);
    } else if (i < rows && (!lengths || j === columns || lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) {
      pairs.push([start + i++, -1]);
    } else {
      pairs.push([-1, start + j++]);
    }
  }
  return pairs;
}

/** Every line of both texts, once. */
export function compareText(before: string, after: string): ILine[] {
  const old = lines(before);
  const now = lines(after);
  return align(old, now, (one, other) => one === other).map(([i, j]) =>
    j < 0 ? { sign: '-', text: old[i] } : { sign: i < 0 ? '+' : ' ', text: now[j] }
  );
}

/** Only what differs with some lines around it; null stands where lines were left out. */
export function shorten(all: ILine[]): (ILine | null)[] {
  const keep = all.map((_, at) =>
    all.slice(Math.max(0, at - CONTEXT_LINES), at + CONTEXT_LINES + 1).some(line => line.sign !== ' ')
  );
  const found: (ILine | null)[] = [];
  all.forEach((line, at) => {
    if (keep[at]) {
      found.push(line);
    } else if (found[found.length - 1] !== null) {
      found.push(null);
    }
  });
  return found;
}

/** The cells that differ. Throws SyntaxError or TypeError where one of the two is no notebook. */
export function compareNotebooks(before: string, after: string): ICell[] {
  const old = cells(before);
  const now = cells(after);
  const same = (one: INotebookCell, other: INotebookCell) =>
    one.id !== undefined && one.id === other.id ? true : one.cell_type === other.cell_type && source(one) === source(other);
  const found: ICell[] = [];
  for (const [i, j] of align(old, now, same)) {
    const cell = now[j] ?? old[i];
    const common = { type: cell.cell_type, number: (j < 0 ? i : j) + 1 };
    if (i < 0 || j < 0) {
      found.push({
        ...common,
        kind: i < 0 ? 'added' : 'removed',
        lines: lines(source(cell)).map(text => ({ sign: i < 0 ? '+' : '-', text }))
      });
    } else if (source(old[i]) !== source(cell)) {
      found.push({ ...common, kind: 'changed', lines: compareText(source(old[i]), source(cell)) });
    } else if (JSON.stringify(old[i].outputs) !== JSON.stringify(cell.outputs)) {
      found.push({ ...common, kind: 'outputs', lines: [] });
    }
  }
  return found;
}

function cells(notebook: string): INotebookCell[] {
  const found = JSON.parse(notebook).cells;
  if (!Array.isArray(found)) {
    throw new TypeError('not a notebook of format 4');
  }
  return found;
}

function source(cell: INotebookCell): string {
  return Array.isArray(cell.source) ? cell.source.join('') : cell.source;
}

function lines(text: string): string[] {
  const found = text.split(/\r?\n/);
  if (found[found.length - 1] === '') {
    found.pop();
  }
  return found;
}
