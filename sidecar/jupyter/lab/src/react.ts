import type { ISignal } from '@lumino/signaling';
import React from 'react';

import type { SessionModel } from './model';

/** Render again when the model changes. */
export function useModel(model: SessionModel): void {
  useSignal(model.changed);
}

/** Render again at each emission; the number of them so far. */
export function useSignal(signal: ISignal<unknown, void>): number {
  const [count, add] = React.useReducer((value: number) => value + 1, 0);
  React.useEffect(() => {
    signal.connect(add);
    // What was emitted between drawing and connecting: nothing else would tell of it.
    add();
    return () => {
      signal.disconnect(add);
    };
  }, [signal]);
  return count;
}
