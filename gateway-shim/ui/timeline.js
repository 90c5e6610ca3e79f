// The last two minutes: the load as a curve, the scheduler's actions as marks in the phase they belong to.
import { clockTime, rate, s } from './dom.js';

const SPAN_MS = 120_000;
const LANES = [['up', 'up'], ['down', 'down'], ['multiplex', 'multiplex'], ['out', 'out'], ['in', 'in']];
const [LEFT, LOAD, LANE, FOOT] = [76, 64, 20, 18];

/** Drawn as wide as it is shown, so that its text keeps its size. */
export function timeline(history, decisions, now, width) {
  const height = LOAD + LANES.length * LANE + FOOT;
  const from = now - SPAN_MS;
  const x = (at) => LEFT + ((at - from) / SPAN_MS) * (width - LEFT - 8);
  const recent = decisions.filter((decision) => decision.at >= from);
  return s('svg', { class: 'timeline', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Load and ${recent.length} actions of the last two minutes` },
    load(history.filter((point) => point.at >= from), x),
    LANES.map(([kind, text], index) => lane(kind, text, LOAD + index * LANE + LANE / 2, recent, x, width)),
    (width < 480 ? [0, 60, 120] : [0, 30, 60, 90, 120]).map((seconds) => s('text', { x: x(from + seconds * 1000), y: height - 4, 'text-anchor': seconds === 120 ? 'end' : 'middle' }, seconds === 120 ? 'now' : `−${120 - seconds} s`)));
}

function load(points, x) {
  const top = Math.max(...points.map((point) => point.rate), 1);
  const y = (value) => LOAD - 6 - (value / top) * (LOAD - 20);
  const path = points.map((point) => `${x(point.at).toFixed(1)} ${y(point.rate).toFixed(1)}`).join('L');
  return [
    s('text', { x: 0, y: 12 }, 'requests/s'), s('text', { x: 0, y: 26 }, `peak ${rate(top)}`),
    points.length > 1 && s('path', { class: 'load-fill', d: `M${path}L${x(points.at(-1).at)} ${LOAD - 6}L${x(points[0].at)} ${LOAD - 6}Z` }),
    points.length > 1 && s('path', { class: 'load', d: `M${path}` }),
  ];
}

function lane(kind, text, y, decisions, x, width) {
  const mine = decisions.filter((decision) => decision.phase === kind);
  return s('g', { 'data-kind': kind }, s('text', { x: 0, y: y + 4 }, text), s('line', { x1: LEFT, x2: width - 8, y1: y, y2: y }),
    mine.map((decision) => s('circle', { class: 'mark', cx: x(decision.at), cy: y, r: 5, fill: 'var(--key)' }, s('title', null, `${clockTime(decision.at)} ${decision.action}: ${decision.reason}`))));
}
