// Containers, each with its two workers, as they are now: a function's own, those it visits, and those nobody owns.
import { bytes, cpu, duration, gauge, h, redraw } from './dom.js';
import { live } from './live.js';

const ROLES = { owner: 'owner', second: 'second', guest: 'guest', generic: 'generic' };
const KEYS = [['owner', 'own worker'], ['second', 'second worker'], ['guest', 'lent to a guest'], ['generic', 'generic, waiting']];
const SPARE = { role: 'generic' };

export const legend = () => h('p', { class: 'legend' }, KEYS.map(([role, text]) => h('span', { '--key': `var(--${role})` }, text)));

const age = (container) => duration(Math.max(0, Math.floor((live.now() - container.since) / 1000)) * 1000, true);
/** Names are namespace.function.random, or standby.random: within one list the end tells them apart. */
const shortName = (id) => id.split('.').at(-1);
const link = (key) => h('a', { href: `#/f/${encodeURIComponent(key)}` }, key);

/** What distinguishes two drawings; cheap to compare. */
export const keyOf = (item) => JSON.stringify([item.containers, item.visits].map((all) => all?.map((one) => [one, age(one), hostOf(one)]) ?? null));

export function containers(item) {
  if (!item.containers) return h('p', { class: 'muted' }, 'This provider does not tell about its containers.');
  const visits = item.visits ?? [];
  if (item.containers.length + visits.length === 0) return h('p', { class: 'muted' }, item.replicas === 0 ? 'None: it is at zero, the next request starts one.' : 'None yet.');
  return h('div', { class: 'containers' }, item.containers.map(own), visits.map((visit) => visited(visit, `${item.name}.${item.namespace}`)));
}

/** The containers that nobody owns, if there are any. */
export function poolCard() {
  const [count, boxes] = [h('span', { class: 'muted' }), h('div', { class: 'body' })];
  const element = h('section', { class: 'card', hidden: true }, h('header', null, h('h2', null, 'Standby containers'), count), boxes);
  return { element, draw() {
    const { standbys = [] } = live.system;
    element.hidden = standbys.length === 0;
    count.textContent = poolText(standbys);
    redraw(boxes, poolKey(standbys), () => pool(standbys));
  } };
}

/** What distinguishes two drawings of the pool. */
const poolKey = (standbys) => JSON.stringify(standbys.map((standby) => [standby, visitTo(standby)]));

/** Containers without an owner: first those that serve, then those that wait. */
function pool(standbys) {
  const order = ['taken', 'held', 'ready', 'starting', 'leaving'];
  const sorted = [...standbys].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  return h('div', { class: 'containers' }, sorted.map(standing));
}

/** The pool in a few words. */
function poolText(standbys) {
  const count = (state) => standbys.filter((standby) => standby.state === state).length;
  return [['ready', 'ready'], ['held', 'with an interpreter that waits'], ['taken', 'in use'], ['starting', 'starting'], ['leaving', 'leaving']].map(([state, word]) => [count(state), word]).filter(([many]) => many > 0).map((part) => part.join(' ')).join(', ');
}

function card(id, head, workers, attributes, ...more) {
  return h('article', { class: 'container', ...attributes },
    h('p', null, h('code', { title: id }, shortName(id)), h('span', { class: 'muted' }, head)),
    h('div', { class: 'workers' }, workers), more);
}

function own(container) {
  const used = container.cpu_milli;
  const quota = container.cpu_quota_milli;
  const memory = container.memory_bytes;
  const most = container.memory_max_bytes;
  return card(container.id, `${container.phase} ${age(container)}`, (container.workers ?? []).map(worker), { 'data-phase': container.phase, 'data-level': container.level },
    h('div', null,
      gauge('CPU', quota ? used / quota : 0, quota ? `${cpu(used)} of ${cpu(quota)}` : `${cpu(used)}, no quota`, container.level === 'high'),
      gauge('RAM', most ? memory / most : 0, most ? `${bytes(memory)} of ${bytes(most)}` : bytes(memory), most && memory / most > 0.9)));
}

/** The function that owns the container which `visit` is in, if that is told. */
function hostOf(visit) {
  if (visit.place !== 'guest') return null;
  for (const [key, item] of live.functions) if (item.containers?.some((container) => container.id === visit.host)) return key;
  return null;
}

function visited(visit, key) {
  const host = hostOf(visit);
  const workers = [0, 1].map((at) => worker(at === visit.worker ? { ...visit, role: 'guest', function: key } : host ? { role: 'owner', state: 'ready' } : SPARE));
  return card(visit.host, `${visit.state} ${age(visit)}`, workers, { 'data-phase': visit.state, 'data-place': visit.place },
    h('p', { class: 'muted' }, visit.place === 'standby' ? 'standby container' : host ? h('span', null, 'container of ', link(host)) : "another function's container"));
}

function visitTo(standby) {
  return live.functions.get(standby.function)?.visits?.find((visit) => visit.host === standby.id);
}

function standing(standby) {
  const visit = visitTo(standby);
  const isHeld = standby.state === 'held';
  const guest = { ...visit, role: 'guest', state: visit?.state ?? (isHeld ? 'waiting' : 'ready'), function: standby.function };
  const has = standby.state === 'taken' || isHeld;
  return card(standby.id, standby.state === 'taken' ? 'in use' : standby.state, [SPARE, has ? guest : SPARE].map(worker), { 'data-phase': standby.state === 'leaving' ? 'draining' : isHeld ? 'ready' : standby.state, 'data-place': 'standby' },
    standby.function && h('p', { class: 'muted' }, h('span', null, isHeld ? 'interpreter waits: ' : 'serves ', link(standby.function))));
}

function worker(now) {
  const role = ROLES[now.role] ?? 'generic';
  const load = now.limit ? `${now.in_flight} of ${now.limit}` : `${now.in_flight ?? 0} running`;
  // In another's container only its worker's owner is known here, not that one's load.
  const told = role === 'generic' ? 'waiting' : now.state !== 'ready' ? now.state : now.in_flight === undefined ? 'ready' : load;
  return h('div', { class: 'worker', 'data-role': role, 'data-state': now.state, title: now.function ?? '' },
    h('b', null, role === 'guest' ? now.function ?? 'guest' : role), h('span', null, told));
}
