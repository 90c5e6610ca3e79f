// The other views: asynchronous calls, secrets, the system.
import * as api from './api.js';
import { poolCard } from './containers.js';
import { bytes, count, cpu, dateTime, duration, gauge, h, redraw, toast } from './dom.js';
import { confirm, open } from './forms.js';
import { live } from './live.js';

const failed = (error) => h('p', { class: 'error' }, error.status === 404 ? 'Not available here.' : error.message);
const card = (title, more, ...body) => h('section', { class: 'card' }, h('header', null, h('h2', null, title), more), ...body);

/** What waits, and what was given up. */
export function asyncPage() {
  const waiting = h('div', { class: 'body' });
  const dead = h('div');
  const all = h('button', { type: 'button', onclick: () => act(() => api.redrive(), 'All are tried again') }, 'Try all again');
  const element = h('div', { class: 'page' }, h('h1', null, 'Asynchronous calls'), card('Queue', null, waiting), card('Dead letters', all, dead));
  let shown = null;

  async function load() {
    try {
      const [queue, letters] = await Promise.all([api.queue(), api.deadLetters()]);
      waiting.replaceChildren(queueView(queue));
      all.hidden = letters.length === 0;
      dead.replaceChildren(lettersView(letters, act));
    } catch (error) {
      all.hidden = true;
      waiting.replaceChildren(failed(error));
      dead.replaceChildren();
    }
  }

  async function act(change, text) {
    try {
      await change();
      toast(text);
    } catch (error) {
      toast(error.message, true);
    }
    load();
  }

  // The live stream says when the queue has changed; only then is the list asked for again.
  function draw() {
    const key = JSON.stringify(live.system.async ?? null);
    if (key === shown) return;
    shown = key;
    load();
  }

  return { element, draw };
}

function queueView(queue) {
  const rows = queue.functions ?? [];
  return h('div', null,
    h('p', null, `${count(queue.depth)} waiting (${bytes(queue.bytes)}), ${count(queue.running)} running, ${count(queue.dead)} dead`),
    rows.length > 0 && h('table', null, h('thead', null, h('tr', null, ['Function', 'Waiting', 'Running', 'Oldest'].map((name, at) => h('th', { scope: 'col', class: at ? 'num' : null }, name)))),
      h('tbody', null, rows.map((row) => h('tr', null, h('td', null, row.function), h('td', { class: 'num' }, count(row.depth)), h('td', { class: 'num' }, count(row.running)), h('td', { class: 'num' }, duration(row.oldest_seconds * 1000)))))));
}

function lettersView(letters, act) {
  if (letters.length === 0) return h('p', { class: 'empty' }, 'None. Calls that are given up are kept here.');
  return h('table', null, h('thead', null, h('tr', null, ['Function', 'Reason', 'Attempts', 'Given up', ''].map((name, at) => h('th', { scope: 'col', class: at === 2 ? 'num' : at === 3 ? 'hide-m' : null }, name)))),
    h('tbody', null, letters.map((letter) => h('tr', null,
      h('td', null, letter.function, h('br'), h('code', { class: 'muted' }, letter.call_id)),
      h('td', null, letter.status ? `${letter.reason} (${letter.status})` : letter.reason), h('td', { class: 'num' }, count(letter.attempts)), h('td', { class: 'hide-m' }, dateTime(letter.given_up_at)),
      h('td', { class: 'num' }, h('button', { type: 'button', onclick: () => act(() => api.redrive(letter.id), 'It is tried again') }, 'Try again'), ' ',
        h('button', { type: 'button', class: 'danger', onclick: () => confirm('Discard this call?', `${letter.function}, ${letter.call_id}`, 'Discard', () => act(() => api.discard(letter.id), 'Discarded')) }, 'Discard'))))));
}

/** Names only: values never come back. */
export function secretsPage() {
  const body = h('div');
  const element = h('div', { class: 'page' }, h('h1', null, 'Secrets'), card('Names', h('button', { type: 'button', class: 'primary', onclick: () => edit(null) }, 'Add'), body));

  async function load() {
    try {
      const spaces = await api.namespaces();
      const lists = await Promise.all(spaces.map((space) => api.secrets(space)));
      const rows = lists.flat().sort((a, b) => `${a.namespace}/${a.name}`.localeCompare(`${b.namespace}/${b.name}`));
      body.replaceChildren(rows.length === 0 ? h('p', { class: 'empty' }, 'No secrets. Functions read theirs from /var/openfaas/secrets.') : h('table', null,
        h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Name'), h('th', { scope: 'col' }, 'Namespace'), h('th'))),
        h('tbody', null, rows.map((secret) => h('tr', null, h('td', { class: 'mono' }, secret.name), h('td', null, secret.namespace), h('td', { class: 'num' },
          h('button', { type: 'button', onclick: () => edit(secret) }, 'Replace'), ' ', h('button', { type: 'button', class: 'danger', onclick: () => drop(secret) }, 'Remove')))))));
    } catch (error) {
      body.replaceChildren(failed(error));
    }
  }

  const drop = (secret) => confirm(`Remove ${secret.name}?`, `From ${secret.namespace}. Functions that use it cannot be started again without it.`, 'Remove', async () => { await api.removeSecret(secret.name, secret.namespace); load(); });

  function edit(secret) {
    const field = (name, label, value, tag = 'input') => h('label', { class: 'field' }, h('span', null, label), h(tag, { name, value, readonly: Boolean(secret) && name !== 'value', autocomplete: 'off', spellcheck: 'false' }));
    const error = h('p', { class: 'error', hidden: true, role: 'alert' });
    const form = h('form', { onsubmit: async (event) => {
      event.preventDefault();
      const data = Object.fromEntries(new FormData(form));
      try {
        await api.saveSecret(!secret, data);
        dialog.close();
        load();
      } catch (problem) { error.textContent = problem.message; error.hidden = false; }
    } }, h('h2', null, secret ? `Replace ${secret.name}` : 'Add a secret'), field('name', 'Name', secret?.name ?? ''), field('namespace', 'Namespace', secret?.namespace ?? 'openfaas-fn'), field('value', 'Value', '', 'textarea'), error,
    h('div', { class: 'end' }, h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'), h('button', { type: 'submit', class: 'primary' }, 'Save')));
    const dialog = open(form);
  }

  load();
  return { element, draw() {} };
}

/** The provider, what it can do here, and its nodes. */
export function systemPage() {
  const facts = h('dl', { class: 'pairs' });
  const nodes = h('div', { class: 'body detail' });
  const abilities = h('div', { class: 'body' });
  const standbys = poolCard();
  const element = h('div', { class: 'page' }, h('h1', null, 'System'), card('Versions', null, h('div', { class: 'body' }, facts)), card('Nodes', null, nodes), standbys.element, card('Abilities', null, abilities));
  api.info().then((info) => {
    const rows = [['Gateway', `${info.version?.release ?? ''} ${info.version?.sha ?? ''}`], ['Provider', `${info.provider?.name ?? info.provider?.provider ?? ''} ${info.provider?.version?.release ?? ''}`], ['Orchestration', info.provider?.orchestration], ['Architecture', info.arch]];
    facts.append(...rows.filter(([, value]) => value?.trim()).flatMap(([label, value]) => [h('dt', null, label), h('dd', null, value)]));
  }).catch((error) => facts.append(failed(error)));

  function draw() {
    const { nodes: list = [], abilities: able = [], scaling } = live.system;
    standbys.draw();
    redraw(nodes, JSON.stringify(list), () => (list.length ? list.map(nodeView) : h('p', { class: 'muted' }, 'This provider does not tell about its nodes.')));
    redraw(abilities, JSON.stringify([able, scaling]), () => h('dl', { class: 'pairs' }, scaling && [h('dt', null, 'Scaling'), h('dd', null, scaling)],
      able.map((ability) => [h('dt', null, ability.name), h('dd', null, h('span', { class: 'state', 'data-state': ability.on ? 'good' : 'zero' }, ability.on ? 'on' : `off${ability.why ? `: ${ability.why}` : ''}`))])));
  }

  return { element, draw };
}

export function nodeView(node) {
  return h('div', { class: 'node-row' }, h('h3', null, node.name ?? 'this machine'),
    gauge('CPU', node.cpu_used_milli / node.cpu_milli, `${cpu(node.cpu_used_milli)} of ${cpu(node.cpu_milli)}`, node.cpu_used_milli / node.cpu_milli > 0.9),
    gauge('RAM', node.memory_used_bytes / node.memory_bytes, `${bytes(node.memory_used_bytes)} of ${bytes(node.memory_bytes)}`, node.memory_used_bytes / node.memory_bytes > 0.9));
}
