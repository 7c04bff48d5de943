import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import React from 'react';

const MARKDOWN = 'text/markdown';

/** A text as Jupyter shows Markdown; as it stands where it cannot. Not trusted: it quotes the student's files. */
export function Markdown({ text, rendermime }: { text: string; rendermime: IRenderMimeRegistry | null }): JSX.Element {
  const place = React.useRef<HTMLDivElement>(null);
  React.useEffect(() => {
    if (!rendermime?.mimeTypes.includes(MARKDOWN)) {
      return;
    }
    const renderer = rendermime.createRenderer(MARKDOWN);
    const model = rendermime.createModel({ data: { [MARKDOWN]: text } });
    renderer.renderModel(model).then(() => place.current?.replaceChildren(renderer.node), console.debug);
    return () => renderer.dispose();
  }, [text, rendermime]);
  return (
    <div className="dm-Report" ref={place}>
      <pre>{text}</pre>
    </div>
  );
}
