// Elements, numbers and times. Text only ever enters the page as text nodes, so nothing a function says can become markup.
const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name.startsWith('--')) element.style.setProperty(name, value);
    else if (name === 'value' && 'value' in element) element.value = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; `on…` attributes are listeners, `--…` are custom properties. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
/** An SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Replaces an element's children, and only if `key` differs from the last time: most updates change nothing on screen. */
export function redraw(element, key, build) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...[build()].flat(Infinity).filter(Boolean));
}

const UNKNOWN = '–';
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export const count = (value) => (known(value) ? value.toLocaleString('en') : UNKNOWN);

export function rate(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return '0';
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString('en');
}

export function duration(ms, isWhole = false) {
  if (!known(ms)) return UNKNOWN;
  if (isWhole && ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function cpu(milli) {
  if (!known(milli)) return UNKNOWN;
  return milli < 1000 ? `${Math.round(milli)}m` : (milli / 1000).toFixed(milli < 10_000 ? 2 : 1);
}

export const share = (value) => (known(value) ? `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %` : UNKNOWN);
export const clockTime = (ms) => new Date(ms).toLocaleTimeString('en-GB');
export const dateTime = (text) => { const at = new Date(text); return Number.isNaN(at.getTime()) || at.getFullYear() < 1971 ? UNKNOWN : at.toLocaleString('en-GB'); };

/** A labelled bar from 0 to 1. */
export function gauge(label, part, text, isHigh) {
  const meter = h('span', { class: 'meter', 'data-level': isHigh ? 'high' : 'low' }, h('i', { '--share': Math.max(0, Math.min(1, part || 0)).toFixed(3) }));
  return h('span', { class: 'gauge' }, h('span', null, label), meter, h('span', null, text));
}

/** A line over evenly spaced values, scaled to its own maximum. */
export function sparkline(values, label) {
  const [width, height] = [84, 24];
  const top = Math.max(...values, 1e-9);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)} ${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`);
  const line = points.length > 1 ? `M${points.join('L')}` : '';
  return s('svg', { class: 'sparkline', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    s('path', { class: 'fill', d: line && `${line}L${width} ${height}L0 ${height}Z` }), s('path', { d: line }));
}

/** One line at the foot of the page, read out by screen readers. */
export function toast(text, isBad = false) {
  const line = h('p', { class: isBad ? 'bad' : null }, text);
  document.getElementById('toasts').append(line);
  setTimeout(() => line.remove(), isBad ? 10_000 : 4_000);
}
