// Before the first paint, so that nobody sees the other theme flash.
(() => {
  let wanted = null;
  try { wanted = localStorage.getItem('theme'); } catch { /* storage is off: the system's colours */ }
  if (wanted === 'light' || wanted === 'dark') document.documentElement.dataset.theme = wanted;
})();
