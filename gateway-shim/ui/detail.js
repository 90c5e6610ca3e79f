// One function: how it does, where it runs, what the scheduler did, its logs, a call, its settings.
import * as api from './api.js';
import { containers, keyOf, legend } from './containers.js';
import { bytes, clockTime, count, cpu, dateTime, duration, h, rate, redraw, share, toast } from './dom.js';
import { confirmRemoval, openEditor } from './forms.js';
import { invokePanel } from './invoke.js';
import { standing } from './list.js';
import { live } from './live.js';
import { logPanel } from './logs.js';
import { timeline } from './timeline.js';

const PHASES = { up: 'scale up', down: 'scale down', multiplex: 'multiplex', out: 'scale out', in: 'scale in', other: 'other' };

/** The panel of the function `key`; `close` must be called when it goes. */
export function detail(key) {
  const item = () => live.functions.get(key);
  const state = h('span', { class: 'state' });
  const trouble = h('p', { class: 'error', hidden: true });
  const facts = h('dl', { class: 'facts' });
  const boxes = h('div');
  const line = h('div', { class: 'body' });
  const made = h('ol', { class: 'decisions', 'aria-label': 'Decisions, newest first', tabindex: '0' });
  const [name, namespace] = [item().name, item().namespace];
  const scaler = stepper(item);
  const tabs = tabbed([
    ['Activity', () => ({ element: h('div', { class: 'detail' },
      h('section', { class: 'card' }, h('header', null, h('h2', null, 'Containers'), legend()), h('div', { class: 'body' }, boxes)),
      h('section', { class: 'card' }, h('header', null, h('h2', null, 'Last two minutes')), line),
      h('section', { class: 'card' }, h('header', null, h('h2', null, 'Decisions')), made)) })],
    ['Logs', () => logPanel(name, namespace)],
    ['Invoke', () => invokePanel(name, namespace)],
    ['Settings', () => settings(name, namespace)],
  ]);
  const element = h('section', { class: 'detail', 'aria-labelledby': 'function-name' },
    h('div', { class: 'title' },
      h('a', { class: 'back button', href: '#/' }, 'All functions'),
      h('div', null, h('h1', { id: 'function-name', tabindex: '-1' }, name), h('div', { class: 'sub' }, h('span', { class: 'muted' }, namespace), state)),
      h('div', { class: 'actions' }, scaler.element,
        h('button', { type: 'button', onclick: () => openEditor(item()) }, 'Edit'),
        h('button', { type: 'button', class: 'danger', onclick: () => confirmRemoval(item()) }, 'Remove'))),
    trouble, facts, tabs.element);

  function draw() {
    const now = item();
    if (!now) return;
    scaler.draw();
    const [level, word] = standing(now);
    state.dataset.state = level;
    state.textContent = word;
    trouble.hidden = !now.trouble;
    trouble.textContent = now.trouble ?? '';
    redraw(facts, factsOf(now).join('|'), () => factsOf(now).map(([label, value, more]) => h('div', null, h('dt', null, label), h('dd', null, value, more && h('small', null, ` ${more}`)))));
    redraw(boxes, keyOf(now), () => containers(now));
    const decisions = live.decisionsOf(key);
    line.replaceChildren(timeline(live.history.get(key) ?? [], decisions, live.now(), Math.max(280, (line.clientWidth || 744) - 24)));
    const last = decisions.at(-1);
    redraw(made, `${decisions.length} ${last?.at}`, () => (decisions.length ? decisions.slice(-200).reverse().map(decision) : h('li', null, h('p', { class: 'muted' }, live.system.knows?.decisions === false ? 'This provider does not tell about its decisions.' : 'None yet.'))));
  }

  draw();
  return { element, draw, close: tabs.close, focus: () => element.querySelector('h1').focus({ preventScroll: true }) };
}

function factsOf(now) {
  return [
    ['Replicas', `${now.available}/${now.replicas}`, 'ready'],
    ['Requests/s', rate(now.rate), null],
    ['In flight', count(now.in_flight), now.parked ? `+ ${now.parked} parked` : null],
    ['p50', duration(now.p50_ms), null],
    ['p95', duration(now.p95_ms), null],
    ['Errors', share(now.errors), null],
    ['CPU', cpu(now.cpu_milli), null],
    ['Memory', bytes(now.memory_bytes), null],
    ['Calls', count(now.invocations), null],
  ];
}

function decision(made) {
  return h('li', { 'data-kind': made.phase in PHASES ? made.phase : 'other' }, h('time', null, clockTime(made.at)), h('span', { class: 'phase' }, PHASES[made.phase] ?? made.phase),
    h('p', null, h('b', null, made.action), made.reason && `: ${made.reason}`));
}

/** Replicas to scale to; sent when the button is pressed, not with each step. Follows the real number until it is changed here. */
function stepper(item) {
  const input = h('input', { type: 'number', min: '0', step: '1', inputmode: 'numeric', 'aria-label': 'Replicas' });
  let isMine = false;
  const step = (by) => () => { isMine = true; input.value = Math.max(0, (Number.parseInt(input.value, 10) || 0) + by); };
  const send = async () => {
    const wanted = Number.parseInt(input.value, 10);
    if (!(wanted >= 0)) return toast('The number of replicas must be 0 or more.', true);
    try {
      await api.scale(item().name, item().namespace, wanted);
      isMine = false;
      toast(`${item().name} scales to ${wanted}`);
    } catch (error) {
      toast(`Not scaled: ${error.message}`, true);
    }
  };
  input.addEventListener('input', () => { isMine = true; });
  input.addEventListener('keydown', (event) => { if (event.key === 'Enter') send(); });
  const element = h('span', { class: 'stepper', role: 'group', 'aria-label': 'Scale' },
    h('button', { type: 'button', 'aria-label': 'One less', onclick: step(-1) }, '−'), input, h('button', { type: 'button', 'aria-label': 'One more', onclick: step(1) }, '+'),
    h('button', { type: 'button', onclick: send }, 'Scale'));
  return { element, draw() { if (!isMine && item()) input.value = item().replicas; } };
}

/** Tabs by the ARIA pattern: arrow keys move, one panel exists at a time. */
function tabbed(entries) {
  const panel = h('div', { role: 'tabpanel', tabindex: '0' });
  let current = null;
  const buttons = entries.map(([label, build], index) => h('button', {
    type: 'button', role: 'tab', onclick: () => choose(index),
    onkeydown: (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by) { const next = (index + by + entries.length) % entries.length; choose(next); buttons[next].focus(); }
    },
  }, label, build && null));
  function choose(index) {
    current?.close?.();
    current = entries[index][1]();
    buttons.forEach((button, at) => { button.setAttribute('aria-selected', at === index); button.tabIndex = at === index ? 0 : -1; });
    panel.setAttribute('aria-label', entries[index][0]);
    panel.replaceChildren(current.element);
  }
  choose(0);
  return { element: h('div', null, h('div', { class: 'tabs', role: 'tablist' }, buttons), h('div', null, panel)), close: () => current?.close?.() };
}

function settings(name, namespace) {
  const element = h('section', { class: 'card' }, h('header', null, h('h2', null, 'As deployed')), h('div', { class: 'body' }, h('p', { class: 'muted' }, 'Loading')));
  api.functionStatus(name, namespace).then((status) => {
    const pairs = (map) => Object.entries(map ?? {}).map(([key, value]) => `${key}=${value}`).join('\n');
    const resources = (bounds) => bounds && Object.entries(bounds).filter(([, value]) => value).map(([key, value]) => `${key} ${value}`).join(', ');
    const rows = [['Image', status.image], ['Process', status.envProcess], ['Created', dateTime(status.createdAt)], ['Limits', resources(status.limits)], ['Requests', resources(status.requests)],
      ['Labels', pairs(status.labels)], ['Annotations', pairs(status.annotations)], ['Environment', pairs(status.envVars)], ['Secrets', (status.secrets ?? []).join(', ')],
      ['Constraints', (status.constraints ?? []).join(', ')], ['Read-only root', status.readOnlyRootFilesystem ? 'yes' : 'no']];
    element.lastChild.replaceChildren(h('dl', { class: 'pairs' }, rows.filter(([, value]) => value).map(([label, value]) => [h('dt', null, label), h('dd', { class: 'mono' }, value.split('\n').map((text) => h('div', null, text)))])));
  }).catch((error) => element.lastChild.replaceChildren(h('p', { class: 'error' }, error.message)));
  return { element };
}
