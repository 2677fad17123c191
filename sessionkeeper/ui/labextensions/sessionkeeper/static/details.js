// The panel that opens above the status bar item.

import { describe, duration, saved, size } from './words.js';

const EVENTS_SHOWN = 8;

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) {
    node.textContent = text;
  }
  return node;
}

function section(title, ...children) {
  const node = make('section', 'sk-Details-section');
  node.append(make('h3', 'sk-Details-heading', title), ...children);
  return node;
}

function facts(rows) {
  const list = make('dl', 'sk-Details-facts');
  for (const [name, value] of rows) {
    if (value !== null && value !== undefined && value !== '') {
      list.append(make('dt', '', name), make('dd', '', String(value)));
    }
  }
  return list;
}

function checkpoint(status, now) {
  const { checkpoint: last, checkpointing } = status;
  if (!last) {
    return checkpointing ? 'the first one is being made' : 'none yet';
  }
  const bytes =
    last.total_bytes === undefined
      ? ''
      : `, ${size(last.total_bytes)} (${size(last.stored_bytes ?? 0)} new)`;
  return `number ${last.number}, ${saved(status, now) ?? duration(now - last.at)}${bytes}${
    checkpointing ? '; the next one is being made' : ''
  }`;
}

function kernels(status, notebooks) {
  const list = make('ul', 'sk-Details-list');
  for (const [id, kernel] of Object.entries(status.kernels ?? {})) {
    const item = make('li', '');
    const name = make('span', 'sk-Details-name', notebooks.get(id) ?? id.slice(0, 8));
    name.title = `kernel ${id}`;
    item.append(name, make('span', 'sk-Details-dim', ` ${kernel.state}`));
    const note = kernel.note ?? kernel.why;
    if (note) {
      item.append(make('div', 'sk-Details-note', note));
    }
    list.append(item);
  }
  return list;
}

function events(status) {
  const list = make('ol', 'sk-Details-list');
  for (const event of (status.events ?? []).slice(-EVENTS_SHOWN).reverse()) {
    const item = make('li', `sk-Details-event sk-mod-${event.level}`);
    const time = make('time', 'sk-Details-dim', new Date(event.at * 1000).toLocaleTimeString());
    item.append(time, make('span', '', event.text));
    list.append(item);
  }
  return list;
}

/** How much of a checkpoint that takes long has come from the node. */
function saving(status) {
  const { bytes, seconds } = status.saving ?? {};
  if (bytes === undefined) {
    return [];
  }
  return [['Being saved', `${(bytes / 1e6).toFixed(1)} MB in ${seconds.toFixed(0)} s`]];
}

function warnings(status) {
  const list = make('ul', 'sk-Details-list');
  for (const text of status.warnings ?? []) {
    list.append(make('li', 'sk-Details-event sk-mod-warning', text));
  }
  return list;
}

/** Fill `node` with everything known. `notebooks`: kernel id -> path. */
export function fillDetails(node, status, now, notebooks) {
  const { glyph, tone, text } = describe(status, now, now);
  const title = make('h2', 'sk-Details-title');
  title.dataset.tone = tone;
  title.append(make('span', 'sk-Status-glyph', glyph), make('span', '', text));
  const parts = [
    title,
    facts([
      ['Node', status.node ?? 'none'],
      ['Incarnation', status.epoch],
      ['Runtime', status.runtime],
      ['Saved by', status.engine],
      ['Checkpoint', checkpoint(status, now)],
      ...saving(status)
    ])
  ];
  if ((status.warnings ?? []).length) {
    parts.push(section('Warnings', warnings(status)));
  }
  if (Object.keys(status.kernels ?? {}).length) {
    parts.push(section('Kernels', kernels(status, notebooks)));
  }
  if ((status.events ?? []).length) {
    parts.push(section('What happened', events(status)));
  }
  node.replaceChildren(...parts);
}
