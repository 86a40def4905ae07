"use strict";
// What the scripts of all pages have in common.
const Page = (() => {
  const find = (id) => document.getElementById(id);

  const html = (tag, kind, ...content) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    made.append(...content);
    return made;
  };

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

  // A text with a button that copies it.
  const code = (text) => {
    const button = html("button", "copy", "copy");
    button.type = "button";
    return html("span", "code", html("code", "", text), button);
  };

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      // A page that was opened as a file may not write there: leave it selected for the reader to copy.
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  // Lines of a list that are made as they are scrolled to. What it returns shows other lines.
  function endless(place, end, line, atOnce) {
    let found = [];
    let shown = 0;
    const button = html("button", "more");
    button.type = "button";
    const more = () => {
      const last = Math.min(found.length, shown + atOnce);
      const part = document.createDocumentFragment();
      for (; shown < last; shown += 1) part.append(line(found[shown]));
      place.append(part);
      button.hidden = shown >= found.length;
      button.textContent = `Show more (${(found.length - shown).toLocaleString("en")} left)`;
      // Looked at anew, as who scrolls fast is at the end again before it was seen to move away.
      observer.unobserve(button);
      observer.observe(button);
    };
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && !button.hidden) more();
    }, { rootMargin: "600px" });
    button.addEventListener("click", more);
    end.append(button);
    return (lines) => {
      found = lines;
      shown = 0;
      place.replaceChildren();
      more();
    };
  }

  // The slash leads to the search.
  function slash(search) {
    addEventListener("keydown", (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      search.focus();
    });
  }

  return { code, copy, endless, find, html, inflate, quoted, slash };
})();
