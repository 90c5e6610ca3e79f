// The page: which view is open, and when what is drawn. Addresses: #/, #/f/NAME.NAMESPACE, #/async, #/secrets, #/system.
import { poolCard } from './containers.js';
import { detail } from './detail.js';
import { bytes, cpu, gauge, h, redraw, toast } from './dom.js';
import { openEditor } from './forms.js';
import { list } from './list.js';
import { live } from './live.js';
import { asyncPage, secretsPage, systemPage } from './pages.js';

const PAGES = { async: asyncPage, secrets: secretsPage, system: systemPage };
const LINK = { wait: 'connecting', live: 'live', lost: 'connection lost, trying again' };
const main = document.getElementById('main');
let view = null;

/** The list, and a function beside it. */
function functionsView() {
  const side = list(() => openEditor(null));
  const standbys = poolCard();
  const hint = h('div', { class: 'hint' }, h('div', { class: 'card empty' }, h('p', null, 'Choose a function to see where it runs and why.')), standbys.element);
  const element = h('div', { class: 'split' }, side.element, hint);
  let [open, shown] = [null, null];

  function show(key) {
    shown = key;
    open?.close();
    open = key && live.functions.has(key) ? detail(key) : null;
    element.toggleAttribute('data-open', Boolean(open));
    side.select(key);
    element.lastChild.replaceWith(open?.element ?? hint);
    if (open) { open.focus(); document.title = `${key} · HyperFaaS`; } else document.title = 'HyperFaaS';
  }

  function draw() {
    side.draw();
    standbys.draw();
    if (shown && Boolean(open) !== live.functions.has(shown)) {
      if (open) { toast(`${shown} is gone`); location.hash = '#/'; }
      return show(open ? null : shown);
    }
    open?.draw();
  }

  return { element, draw, show, close: () => open?.close() };
}

function route() {
  const [, name = '', key] = location.hash.split('/');
  const page = name in PAGES ? name : 'functions';
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.view === page) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  if (view?.page !== page) {
    view?.close?.();
    view = { page, ...(page === 'functions' ? functionsView() : PAGES[page]()) };
    main.replaceChildren(view.element);
    document.title = page === 'functions' ? 'HyperFaaS' : `${view.element.querySelector('h1').textContent} · HyperFaaS`;
  }
  view.show?.(name === 'f' && key ? decodeURIComponent(key) : null);
  draw();
}

function draw() {
  view?.draw();
  const link = document.getElementById('link');
  const trouble = live.link === 'live' && live.system.trouble;
  const told = trouble || LINK[live.link];
  if (link.textContent !== told) { link.dataset.state = trouble ? 'lost' : live.link; link.textContent = told; }
  const dead = document.getElementById('nav-dead');
  dead.hidden = !live.system.async?.dead;
  dead.textContent = live.system.async?.dead ?? '';
  const node = live.system.nodes?.[0];
  const bar = document.getElementById('node');
  const text = node ? `CPU ${cpu(node.cpu_used_milli)} of ${cpu(node.cpu_milli)}, memory ${bytes(node.memory_used_bytes)} of ${bytes(node.memory_bytes)}` : '';
  redraw(bar, text, () => {
    bar.setAttribute('aria-label', text);
    return node ? [gauge('CPU', node.cpu_used_milli / node.cpu_milli, cpu(node.cpu_used_milli), false), gauge('RAM', node.memory_used_bytes / node.memory_bytes, bytes(node.memory_used_bytes), false)] : [];
  });
}

const THEMES = [['', 'Theme: system'], ['light', 'Theme: light'], ['dark', 'Theme: dark']];
function theme() {
  const button = document.getElementById('theme');
  const now = () => Math.max(0, THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? '')));
  const label = () => { button.textContent = THEMES[now()][1]; };
  button.addEventListener('click', () => {
    const [next] = THEMES[(now() + 1) % THEMES.length];
    if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
    try { localStorage.setItem('theme', next); } catch { /* storage is off: it holds for this visit */ }
    label();
  });
  label();
}

// Many events a second are one drawing: no more than the screen shows.
let isDue = false;
live.addEventListener('change', () => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; draw(); });
});
addEventListener('hashchange', route);
theme();
route();
live.start();
