// What the page does in the browser by itself: colours, settings drawer, strength words, widen, copy, the phone's pane
// switcher, scrolling together, and repairs of Gradio's markup for keyboards and screen readers. Works by delegation,
// because Gradio mounts its parts in any order.
(() => {
  const PANES = ['baseline', 'ablated', 'added', 'fourth', 'fifth'];
  const THEME_KEY = 'steering-theme';
  const NARROW = matchMedia('(max-width: 900px)');
  const find = (id) => document.getElementById(id);
  const page = document.documentElement;
  let latest = { idea: null, state: { state: 'idle' }, ask: 'Ask all three' };
  const columns = () => (latest.idea ? latest.idea.names.length : 3);

  const say = (words) => {
    const spoken = find('spoken');
    if (spoken) spoken.textContent = words;
  };

  // -------------------------------------------------------------- a link to other columns

  // What the page opens with would jump when they come; it is not shown before, nor for long if they never do.
  const linked = new URLSearchParams(location.search).get('beside');
  const arrived = () => page.removeAttribute('data-arriving');
  if (['random', 'prompted', 'both', 'knob'].includes(linked)) { // as steering/ui/columns.py names them
    page.setAttribute('data-arriving', '');
    setTimeout(arrived, 8000);
  }

  // -------------------------------------------------------------- colours

  const isDark = () => document.body.classList.contains('dark');

  const stored = () => {
    try {
      return localStorage.getItem(THEME_KEY);
    } catch {
      return null; // storage may be off; the choice then lasts as long as the page
    }
  };

  function followTheme() {
    const wanted = stored();
    if (wanted && (wanted === 'dark') !== isDark()) document.body.classList.toggle('dark', wanted === 'dark');
    const button = find('theme');
    if (!button) return;
    const next = isDark() ? 'Light' : 'Dark';
    const words = button.querySelector('span');
    if (words.textContent !== next) words.textContent = next;
    button.setAttribute('aria-label', `${next} colours`);
  }

  function switchTheme() {
    const next = isDark() ? 'light' : 'dark';
    try {
      localStorage.setItem(THEME_KEY, next);
    } catch {
      // See stored().
    }
    document.body.classList.toggle('dark', next === 'dark');
    followTheme();
  }

  // -------------------------------------------------------------- settings drawer

  function openSettings(open) {
    const drawer = find('settings');
    const opener = find('open-settings');
    if (!drawer || !opener) return;
    page.toggleAttribute('data-settings', open);
    drawer.inert = !open;
    opener.setAttribute('aria-expanded', String(open));
    (open ? find('close-settings') : opener).focus();
  }

  // -------------------------------------------------------------- strength

  const HINTS = {
    none: 'At 0 nothing is added. Left and right are equal.',
    weak: 'A light touch. You may not see a difference yet.',
    sweet: 'Clear, and the text still reads well. Move it any time.',
    breaks: 'Too much: expect repetition and broken sentences.',
    unknown: 'Not measured for this direction.',
  };

  function showStrength() {
    const zones = document.querySelector('.zones');
    const range = document.querySelector('#strength input[type=range]');
    if (!zones || !range) return;
    const value = Number(range.value);
    const top = Number(range.max) || 1;
    const sweet = latest.idea && latest.idea.sweet;
    zones.dataset.measured = sweet ? 'yes' : 'no';
    if (sweet) {
      zones.style.setProperty('--a', String(Math.min(1, sweet[0] / top)));
      zones.style.setProperty('--b', String(Math.min(1, sweet[1] / top)));
    }
    let zone = 'unknown';
    if (value === 0) zone = 'none';
    else if (sweet) zone = value < sweet[0] ? 'weak' : value <= sweet[1] ? 'sweet' : 'breaks';
    zones.dataset.zone = zone;
    const words = document.querySelector('#strength .head span, #strength label > span');
    const dose = latest.idea && latest.idea.dose;
    // In parts of the residual stream's usual length at that layer, so that strengths of two ideas can be compared.
    if (words) words.dataset.dose = dose && value ? ` · ${(value * dose).toFixed(2)} of the stream` : '';
    const hint = zones.querySelector('.zone-hint');
    if (hint.textContent !== HINTS[zone]) hint.textContent = HINTS[zone];
    range.setAttribute('aria-describedby', 'zone-hint');
  }

  // -------------------------------------------------------------- question

  function complain(words) {
    const note = find('question-note');
    const box = document.querySelector('#message textarea');
    if (!note || !box) return;
    note.hidden = !words;
    note.textContent = words;
    page.toggleAttribute('data-no-question', Boolean(words));
    box.setAttribute('aria-invalid', String(Boolean(words)));
    box.setAttribute('aria-describedby', 'question-note');
    if (words) {
      say(words);
      box.focus();
    }
  }

  // An empty question, or one asked while the model cannot answer, stops here and costs no request.
  function refuses() {
    const box = document.querySelector('#message textarea');
    if (page.dataset.busy !== undefined || ['prefill', 'running'].includes(latest.state.state)) return true;
    if (box && box.value.trim()) return false;
    complain('Write a question first.');
    return true;
  }

  // Gradio wrote the usual words into the button; others are laid over them by the style.
  function showState() {
    const ask = find('ask');
    const busy = latest.state.button || '';
    const words = busy || (latest.ask === 'Ask all three' ? '' : latest.ask);
    page.toggleAttribute('data-busy', Boolean(busy));
    if (!ask || ask.dataset.words === words) return;
    ask.dataset.words = words;
    ask.toggleAttribute('data-other', Boolean(words));
    if (words) ask.setAttribute('aria-label', words);
    else ask.removeAttribute('aria-label');
    if (busy) ask.setAttribute('aria-disabled', 'true');
    else ask.removeAttribute('aria-disabled');
  }

  // -------------------------------------------------------------- panes

  function widen(button) {
    const panes = find('panes');
    const pane = button.closest('.pane').id;
    const wide = panes.dataset.wide === pane ? '' : pane;
    panes.dataset.wide = wide;
    shareOut();
    for (const other of panes.querySelectorAll('.widen')) {
      const pressed = other.closest('.pane').id === wide;
      const words = pressed ? 'Make all equal' : 'Widen this answer';
      other.setAttribute('aria-pressed', String(pressed));
      other.title = words;
      other.setAttribute('aria-label', words);
    }
  }

  // The wide pane gets two and a half times the room of another.
  function shareOut() {
    const panes = find('panes');
    if (!panes) return;
    const wide = PANES.indexOf((panes.dataset.wide || '').replace('pane-', ''));
    const shares = PANES.slice(0, columns()).map((_, column) => `minmax(0, ${column === wide ? 2.6 : 1}fr)`);
    panes.style.setProperty('--columns', shares.join(' '));
  }

  async function copyAnswer(button) {
    const answers = [...button.closest('.pane').querySelectorAll('.bot .message-content')].filter((part) => !part.closest('.thought-group'));
    const answer = answers[answers.length - 1];
    if (!answer) {
      say('There is no answer to copy yet.');
      return;
    }
    if (!(await toClipboard(answer.innerText.trim()))) return;
    say('Copied');
    button.dataset.done = '';
    setTimeout(() => delete button.dataset.done, 1500);
  }

  function bringPane(which) {
    const pane = find(`pane-${PANES[which]}`);
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    pane.parentElement.scrollTo({ left: pane.offsetLeft - pane.parentElement.offsetLeft, behavior: calm ? 'auto' : 'smooth' });
  }

  function followPanes() {
    const panes = find('panes');
    if (!panes || panes.scrollWidth <= panes.clientWidth) return;
    const share = panes.scrollLeft / (panes.scrollWidth - panes.clientWidth);
    const which = Math.round(share * (columns() - 1));
    for (const button of document.querySelectorAll('#switcher button')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.column) === which));
    }
  }

  const together = () => document.querySelector('#scroll-together input')?.checked;
  let leader = null;
  let leaderUntil = 0;

  function scrollOthers(source) {
    if (!together()) return;
    const now = performance.now();
    if (leader !== source && now < leaderUntil) return; // this one only follows
    leader = source;
    leaderUntil = now + 150;
    const share = source.scrollTop / Math.max(1, source.scrollHeight - source.clientHeight);
    for (const log of document.querySelectorAll('.chat [role=log]')) {
      if (log !== source) log.scrollTop = share * (log.scrollHeight - log.clientHeight);
    }
  }

  // -------------------------------------------------------------- taking something along

  async function toClipboard(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      if (copiedTheOldWay(text)) return true;
      say('The browser did not let the page copy. Select the text instead.');
      return false;
    }
  }

  // A page over plain HTTP, as on a booth's own network, has no clipboard of the new kind.
  function copiedTheOldWay(text) {
    const before = document.activeElement;
    const box = document.createElement('textarea');
    box.value = text;
    box.className = 'unseen';
    document.body.append(box);
    box.select();
    const copied = document.execCommand('copy');
    box.remove();
    before?.focus({ preventScroll: true });
    return copied;
  }

  // Say and show that a button did what it says: in its own words, or in those of the menu that it closed.
  function confirm(id, words) {
    say(words);
    const button = find(id);
    const shown = button && (button.closest('.menu')?.querySelector('summary') || button.querySelector('span') || button);
    if (!shown || shown.dataset.usual) return;
    shown.dataset.usual = shown.textContent;
    shown.textContent = words;
    setTimeout(() => {
      shown.textContent = shown.dataset.usual;
      delete shown.dataset.usual;
    }, 1800);
  }

  // For the js= of handlers: the server made a text, the browser takes it from here.
  window.steeringPage = {
    async copy(text, button) {
      if (!text) say('There is nothing to copy yet.');
      else if (await toClipboard(text)) confirm(button, 'Copied');
    },
    save(name, content, type) {
      if (!content) {
        say('There is nothing to save yet.');
        return;
      }
      const link = document.createElement('a');
      link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      confirm('save-run', 'Saved');
    },
  };

  function closeMenus(except) {
    for (const menu of document.querySelectorAll('.menu[open]')) if (menu !== except) menu.open = false;
  }

  // A button of ours that stands for one of Gradio's; the menu that it is in closes and gets the focus back.
  function press(button) {
    const menu = button.closest('.menu');
    if (menu) {
      menu.open = false;
      menu.querySelector('summary').focus();
    }
    if (button.dataset.presses) find(button.dataset.presses)?.click();
  }

  // -------------------------------------------------------------- the first paint

  // What steering/ui/first_paint.py put over the page goes when the page shows the same, and does not stay if it never
  // does.
  const PAINT_ENDS = 15000;

  function uncover() {
    const paint = find('first-paint');
    if (!paint) return;
    const answered = document.querySelector('#pane-added .bot .message-content')?.textContent.trim();
    const ready = answered && find('ask') && find('status-words')?.textContent && document.querySelector('#scope .card');
    if (ready || performance.now() > PAINT_ENDS) paint.remove();
    else requestAnimationFrame(uncover);
  }
  uncover();

  // -------------------------------------------------------------- listening

  document.addEventListener('steering', (event) => {
    latest = event.detail;
    showState();
    if (event.detail.what === 'idea') {
      if (columns() !== 3) arrived();
      showStrength();
      shareOut();
      nameGroup();
    }
  });

  document.addEventListener('click', (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    closeMenus(target.closest('.menu'));
    if (target.closest('[data-presses], .menu button')) press(target.closest('button'));
    else if (target.closest('#ask') && refuses()) {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else if (target.closest('.try-button')) complain('');
    else if (target.closest('#theme')) switchTheme();
    else if (target.closest('#open-settings')) openSettings(!page.hasAttribute('data-settings'));
    else if (target.closest('#close-settings')) openSettings(false);
    else if (target.closest('.widen')) widen(target.closest('.widen'));
    else if (target.closest('.pane-head .copy')) copyAnswer(target.closest('.copy'));
    else if (target.closest('#switcher button')) bringPane(Number(target.closest('button').dataset.column));
  }, true);

  document.addEventListener('keydown', (event) => {
    const menu = event.key === 'Escape' ? event.target.closest('.menu[open]') : null;
    if (menu) {
      menu.open = false;
      menu.querySelector('summary').focus();
      return;
    }
    if (event.key === 'Escape' && page.hasAttribute('data-settings') && !event.target.closest('[role=listbox]')) openSettings(false);
    const asking = event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.target.closest('#message');
    if (asking && refuses()) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  document.addEventListener('input', (event) => {
    if (event.target.closest('#message') && event.target.value.trim()) complain('');
    // A number typed in the box reaches the slider only after this.
    if (event.target.closest('#strength')) requestAnimationFrame(showStrength);
  }, true);

  document.addEventListener('scroll', (event) => {
    if (event.target.id === 'panes') followPanes();
    else if (event.target instanceof Element && event.target.matches('.chat [role=log]')) scrollOthers(event.target);
  }, true);

  // -------------------------------------------------------------- questions to try

  // Questions that do not fit the row lie on a second one, out of sight; the keyboard must not find them either.
  const fitting = new ResizeObserver(() => {
    const row = find('try')?.getBoundingClientRect();
    for (const button of document.querySelectorAll('#try .try-button')) {
      button.inert = row.height > 0 && button.getBoundingClientRect().top >= row.bottom;
    }
  });

  function followTries() {
    for (const part of document.querySelectorAll('#try, #try .try-button')) fitting.observe(part);
  }

  // -------------------------------------------------------------- repairs of Gradio's markup

  const set = (node, name, value) => {
    if (node && node.getAttribute(name) !== value) node.setAttribute(name, value);
  };

  const nameGroup = () => set(find('panes'), 'aria-label', `${['Two', 'Three', 'Four', 'Five'][columns() - 2]} answers`);

  function repair() {
    // Three live regions would all talk at once; the page's own hidden one speaks for them.
    document.querySelectorAll('.chat [role=log]').forEach((log) => {
      set(log, 'aria-live', 'off');
      set(log, 'tabindex', '0');
      const name = log.closest('.pane')?.querySelector('.pane-name')?.textContent;
      if (name) set(log, 'aria-label', name);
    });
    document.querySelectorAll('.chat [data-testid=user][aria-label], .chat [data-testid=bot][aria-label]').forEach((message) => {
      if (message.tagName === 'DIV') message.removeAttribute('aria-label');
    });
    // One name a group, so that arrow keys move between its choices.
    const groups = ['idea', 'beside', 'third-answer', 'removal', 'addition', 'thinking-acts', 'home-kind', 'home-form'];
    for (const group of [...groups, 'evaluate-count', 'evaluate-length', 'evaluate-which']) {
      document.querySelectorAll(`#${group} input[type=radio]`).forEach((input) => set(input, 'name', group));
    }
    document.querySelectorAll('.toast-header').forEach((header) => {
      header.removeAttribute('role');
      header.removeAttribute('tabindex');
    });
    document.querySelectorAll('.thought-group .title').forEach((title) => set(title, 'aria-expanded', String(title.classList.contains('expanded'))));
    // Its label is not shown, and Gradio then gives it none.
    set(document.querySelector('#model-status textarea'), 'aria-label', 'About this model');
    set(find('branch-back'), 'aria-label', 'The branch before');
    set(find('branch-on'), 'aria-label', 'The branch after');
    const drawer = find('settings');
    if (drawer && !drawer.hasAttribute('role')) {
      set(drawer, 'role', 'dialog');
      set(drawer, 'aria-labelledby', 'settings-title');
      drawer.inert = true;
    }
    const panes = find('panes');
    if (panes && !panes.hasAttribute('role')) {
      set(panes, 'role', 'group');
      nameGroup();
      shareOut();
    }
    set(panes, 'tabindex', NARROW.matches ? '0' : '-1');
    followTheme();
    followTries();
    showState();
    showStrength();
  }

  // Not at every change: answers grow twelve times a second.
  let repairing = 0;
  new MutationObserver(() => {
    if (!repairing) repairing = setTimeout(() => { repairing = 0; repair(); }, 120);
  }).observe(page, { childList: true, subtree: true, attributes: true, attributeFilter: ['max', 'role', 'aria-busy'] });
  // The colours are the exception: a wrong theme must not be seen.
  const early = setInterval(() => {
    if (!document.body) return;
    clearInterval(early);
    followTheme();
    new MutationObserver(followTheme).observe(document.body, { attributes: true, attributeFilter: ['class'] });
  }, 10);
})();
