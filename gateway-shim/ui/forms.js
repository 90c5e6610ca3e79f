// Dialogs: deploy, edit, remove.
import * as api from './api.js';
import { h, toast } from './dom.js';
import { id } from './live.js';

/** Shows a dialog that leaves the page when closed; the element that opened it gets the focus back. */
export function open(content) {
  const before = document.activeElement;
  const dialog = h('dialog', { onclose: () => { dialog.remove(); before?.focus?.(); } }, content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function openEditor(item) {
  if (!item) return editor(null);
  return api.functionStatus(item.name, item.namespace).then(editor, (error) => toast(error.message, true));
}

/** Without the one label that the provider adds by itself. */
function ownLabels(status) {
  const { faas_function: _, ...own } = status?.labels ?? {};
  return own;
}

/** The form of a deployment; `status` is that of a function to change, or null for a new one. */
function editor(status) {
  const lines = (map) => Object.entries(map ?? {}).map(([key, value]) => `${key}=${value}`).join('\n');
  const text = (name, label, value, more = {}) => h('label', { class: `field ${more.class ?? ''}` }, h('span', null, label), h(more.tag ?? 'input', { name, value: value ?? '', spellcheck: 'false', autocomplete: 'off', ...more.attributes }));
  const area = (name, label, value) => text(name, label, value, { tag: 'textarea', class: 'wide', attributes: { rows: '3', placeholder: 'KEY=value, one a line' } });
  const error = h('p', { class: 'error wide', hidden: true, role: 'alert' });
  const isReadOnly = h('input', { type: 'checkbox', name: 'readOnly', checked: Boolean(status?.readOnlyRootFilesystem) });
  const submit = h('button', { type: 'submit', class: 'primary' }, status ? 'Update' : 'Deploy');
  const form = h('form', { novalidate: true, onsubmit: (event) => { event.preventDefault(); send(); } },
    h('h2', null, status ? `Edit ${status.name}` : 'Deploy a function'),
    h('div', { class: 'form' },
      text('service', 'Name', status?.name, { attributes: { readonly: Boolean(status), required: true, placeholder: 'hello' } }),
      text('namespace', 'Namespace', status?.namespace, { attributes: { readonly: Boolean(status), placeholder: 'openfaas-fn' } }),
      text('image', 'Image', status?.image, { class: 'wide', attributes: { required: true, placeholder: 'registry/name:tag' } }),
      text('envProcess', 'Process (fprocess), if the image sets none', status?.envProcess, { class: 'wide' }),
      area('envVars', 'Environment', lines(status?.envVars)), area('labels', 'Labels', lines(ownLabels(status))), area('annotations', 'Annotations', lines(status?.annotations)),
      text('secrets', 'Secrets, separated by commas', (status?.secrets ?? []).join(', '), { class: 'wide' }),
      text('requestsCpu', 'CPU requested', status?.requests?.cpu, { attributes: { placeholder: '200m' } }), text('limitsCpu', 'CPU limit', status?.limits?.cpu, { attributes: { placeholder: '1000m' } }),
      text('requestsMemory', 'Memory requested', status?.requests?.memory, { attributes: { placeholder: '64Mi' } }), text('limitsMemory', 'Memory limit', status?.limits?.memory, { attributes: { placeholder: '256Mi' } }),
      h('label', { class: 'check wide' }, isReadOnly, 'Read-only root file system'), error),
    h('div', { class: 'end' }, h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'), submit));
  const dialog = open(form);

  async function send() {
    error.hidden = true;
    submit.disabled = true;
    try {
      await (status ? api.update : api.deploy)(specification(new FormData(form), isReadOnly.checked, status));
      dialog.close();
      toast(status ? `${status.name} is being updated` : `${form.elements.service.value} is being deployed`);
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    } finally {
      submit.disabled = false;
    }
  }
}

function specification(data, readOnlyRootFilesystem, status) {
  const value = (name) => data.get(name).trim();
  const bounds = (memory, cpu) => (value(memory) || value(cpu) ? { ...(value(memory) && { memory: value(memory) }), ...(value(cpu) && { cpu: value(cpu) }) } : undefined);
  return {
    service: value('service'), image: value('image'), ...(value('namespace') && { namespace: value('namespace') }), ...(value('envProcess') && { envProcess: value('envProcess') }),
    envVars: pairs(value('envVars'), 'Environment'), labels: pairs(value('labels'), 'Labels'), annotations: pairs(value('annotations'), 'Annotations'),
    secrets: value('secrets').split(',').map((name) => name.trim()).filter(Boolean), constraints: status?.constraints ?? [], readOnlyRootFilesystem,
    limits: bounds('limitsMemory', 'limitsCpu'), requests: bounds('requestsMemory', 'requestsCpu'),
  };
}

function pairs(text, what) {
  return Object.fromEntries(text.split('\n').filter((line) => line.trim()).map((line) => {
    const equals = line.indexOf('=');
    if (equals < 1) throw new Error(`${what}: "${line.trim().slice(0, 60)}" is not KEY=value`);
    return [line.slice(0, equals).trim(), line.slice(equals + 1)];
  }));
}

/** Asks before anything is lost. */
export function confirm(title, text, verb, act) {
  const error = h('p', { class: 'error', hidden: true, role: 'alert' });
  const button = h('button', { type: 'button', class: 'danger', onclick: run }, verb);
  const dialog = open(h('div', null, h('h2', null, title), h('p', null, text), error, h('div', { class: 'end' }, h('button', { type: 'button', autofocus: true, onclick: () => dialog.close() }, 'Cancel'), button)));
  async function run() {
    button.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
      button.disabled = false;
    }
  }
}

export function confirmRemoval(item) {
  confirm(`Remove ${id(item)}?`, 'Its containers are drained and removed. What it serves now is finished first.', 'Remove', async () => {
    await api.remove(item.name, item.namespace);
    toast(`${item.name} is being removed`);
    location.hash = '#/';
  });
}
