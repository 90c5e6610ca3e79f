// The functions, one a row, with what matters at a glance.
import { cpu, bytes, duration, h, rate, redraw, share, sparkline } from './dom.js';
import { id, live } from './live.js';

/** How a function is doing: a word and a colour's name. */
export function standing(item) {
  if (item.trouble) return ['bad', 'failing'];
  if (item.replicas === 0) return ['zero', 'at zero'];
  if (item.available === 0) return item.visits?.some((visit) => visit.state === 'ready') ? ['good', 'as a guest'] : ['warn', 'starting'];
  if (item.available < item.replicas) return ['warn', 'scaling'];
  return ['good', 'ready'];
}

const columns = [['Function'], ['Requests/s', 'num'], ['p95', 'num'], ['Errors', 'num hide-m'], ['CPU', 'num hide-m'], ['Memory', 'num hide-m']];

/** The side panel; `open` deploys. */
export function list(openDeploy) {
  const search = h('input', { type: 'search', placeholder: 'Filter', 'aria-label': 'Filter functions by name', autocomplete: 'off' });
  const title = h('h2', null, 'Functions');
  const rows = h('tbody');
  const table = h('table', { class: 'list' },
    h('caption', { class: 'visually-hidden' }, 'Functions'),
    h('thead', null, h('tr', null, columns.map(([name, kind]) => h('th', { scope: 'col', class: kind }, name)))), rows);
  const empty = h('div', { class: 'empty', hidden: true });
  const element = h('section', { class: 'side card', 'aria-label': 'Functions' },
    h('header', null, title, search, h('button', { type: 'button', class: 'primary', onclick: openDeploy }, 'Deploy')),
    h('div', { class: 'scroll' }, table, empty));
  const built = new Map();
  let selected = null;

  function draw() {
    const wanted = search.value.trim().toLowerCase();
    const items = [...live.functions.values()].filter((item) => id(item).toLowerCase().includes(wanted)).sort((a, b) => id(a).localeCompare(id(b)));
    title.textContent = `Functions ${live.functions.size || ''}`;
    const kept = new Set();
    items.forEach((item, index) => {
      const key = id(item);
      kept.add(key);
      if (!built.has(key)) built.set(key, row(item));
      const entry = built.get(key);
      if (rows.children[index] !== entry.element) rows.insertBefore(entry.element, rows.children[index] ?? null);
      entry.update(item, key === selected);
    });
    for (const [key, entry] of built) if (!kept.has(key)) { entry.element.remove(); built.delete(key); }
    table.hidden = items.length === 0;
    empty.hidden = items.length > 0;
    if (!empty.hidden) redraw(empty, `${live.link}${live.functions.size}`, () => nothing(openDeploy));
  }

  search.addEventListener('input', draw);
  return { element, draw, select(key) { selected = key; draw(); } };
}

function nothing(openDeploy) {
  if (live.functions.size > 0) return [h('p', null, 'No function has such a name.')];
  if (live.link !== 'live') return [h('p', null, 'Waiting for the gateway.')];
  return [h('p', null, 'No functions yet. Deploy one here, or with:'), h('code', null, 'faas-cli deploy -f stack.yml'),
    h('button', { type: 'button', onclick: openDeploy }, 'Deploy a function')];
}

function row(item) {
  const link = h('a', { href: `#/f/${encodeURIComponent(id(item))}` }, item.name);
  const state = h('span', { class: 'state' });
  const where = h('small', null, state);
  const cells = columns.slice(1).map(([, kind]) => h('td', { class: kind }));
  const element = h('tr', null, h('td', null, link, where), cells);
  function update(now, isCurrent) {
    if (isCurrent) { element.setAttribute('aria-current', 'true'); } else element.removeAttribute('aria-current');
    const [level, word] = standing(now);
    state.dataset.state = level;
    const replicas = now.replicas === 0 ? word : `${now.available}/${now.replicas} ${word}`;
    state.textContent = now.namespace === 'openfaas-fn' ? replicas : `${replicas}, ${now.namespace}`;
    const line = (live.history.get(id(now)) ?? []).slice(-60).map((point) => point.rate);
    redraw(cells[0], line.join(), () => h('span', { class: 'trend' }, sparkline(line, `${rate(now.rate)} requests a second`), h('span', null, rate(now.rate))));
    cells[1].textContent = duration(now.p95_ms);
    cells[2].textContent = share(now.errors);
    cells[3].textContent = cpu(now.cpu_milli);
    cells[4].textContent = bytes(now.memory_bytes);
  }
  return { element, update };
}
