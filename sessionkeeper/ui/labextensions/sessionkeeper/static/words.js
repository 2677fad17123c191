// From the session's status to what is shown. Pure: no clock, no document.

// How long "moved in 0.9 s" stays in the status bar, in seconds. The details keep it.
export const NEWS_SECONDS = 60;

const SHAPES = {
  idle: ['○', 'calm'],
  starting: ['◐', 'busy'],
  running: ['●', 'good'],
  moving: ['◐', 'busy'],
  recovering: ['◐', 'busy'],
  waiting: ['◌', 'warn'],
  failed: ['✕', 'bad'],
  hibernated: ['○', 'calm'],
  'gateway-away': ['◌', 'warn'],
  'server-away': ['◌', 'warn']
};

/** "3 s", "5 min", "2 h", "4 d": seconds in the largest unit that fits, never negative. */
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) {
    return `${s} s`;
  }
  if (s < 3600) {
    return `${Math.floor(s / 60)} min`;
  }
  if (s < 48 * 3600) {
    return `${Math.floor(s / 3600)} h`;
  }
  return `${Math.floor(s / 86400)} d`;
}

/** "1.2 MB": bytes, in powers of 1000. */
export function size(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** The event that `status.message` repeats, if it is among the last ones. */
function eventOf(status) {
  return [...(status.events ?? [])].reverse().find(event => event.text === status.message);
}

/** The message as long as it is news; `seen` is when this page first saw it, server time. */
function news(status, now, seen) {
  if (!status.message) {
    return null;
  }
  const event = eventOf(status);
  const since = event ? event.at : seen;
  if (now - since > NEWS_SECONDS) {
    return null;
  }
  // "moved from node-1 to node-2 in 0.9 s": where it is now stands right beside it.
  const text = status.node
    ? status.message.replace(new RegExp(` (to|on) ${escape(status.node)}(?![\\w.-])`), '')
    : status.message;
  if (text === 'runs') {
    return null; // that it runs there is what the name of the node says
  }
  const serious =
    (event && event.level !== 'info') || /\b(recovered|rolled back|lost|re-ran)\b/.test(text);
  return { text, serious };
}

function escape(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function main(status, fresh) {
  const { state, node, message } = status;
  const plain = {
    idle: 'no compute in use',
    starting: node ? `starting on ${node}…` : 'starting…',
    moving: node ? `moving from ${node}…` : 'moving…',
    recovering: node ? `recovering on ${node}…` : 'recovering…',
    waiting: 'waiting for a node',
    failed: 'the session failed',
    hibernated: 'hibernated',
    'gateway-away': 'gateway does not answer, trying again…',
    'server-away': 'server does not answer, trying again…'
  };
  if (state === 'running') {
    return [node ?? 'running', fresh?.text].filter(Boolean).join(' · ');
  }
  if (message && ['moving', 'recovering', 'starting', 'waiting', 'failed'].includes(state)) {
    return message;
  }
  return plain[state] ?? state;
}

/** "saved 3 s ago", or null where it says nothing. `now` is server time in seconds. */
export function saved(status, now) {
  if (['server-away', 'gateway-away', 'starting'].includes(status.state)) {
    return null;
  }
  if (!status.checkpoint) {
    return status.state === 'idle' ? null : 'not saved yet';
  }
  return `saved ${duration(now - status.checkpoint.at)} ago`;
}

/**
 * What the status bar shows: `glyph`, `tone` (good, calm, busy, warn, bad), `text` (changes only
 * when something happened, so it can be read aloud) and `age` (changes each second).
 */
export function describe(status, now, seen) {
  const fresh = news(status, now, seen);
  let [glyph, tone] = SHAPES[status.state] ?? ['○', 'calm'];
  const warnings = (status.warnings ?? []).length;
  if (status.state === 'running' && (fresh?.serious || warnings)) {
    [glyph, tone] = ['▲', 'warn'];
  }
  const parts = [main(status, fresh)];
  if (warnings) {
    parts.push(warnings === 1 ? '1 warning' : `${warnings} warnings`);
  }
  return { glyph, tone, text: parts.join(' · '), age: saved(status, now) };
}

/**
 * What deserves a notification: `[{level, text}]`. `seen` is the time of the last event that was
 * notified, `known` the warnings that were there before.
 */
export function alerts(status, seen, known) {
  const events = (status.events ?? []).filter(e => e.level !== 'info' && e.at > seen);
  const told = new Set(events.map(event => event.text));
  const standing = (status.warnings ?? [])
    .filter(text => !known.has(text) && !told.has(text))
    .map(text => ({ level: 'warning', text }));
  return [...events.map(({ level, text }) => ({ level, text })), ...standing];
}
