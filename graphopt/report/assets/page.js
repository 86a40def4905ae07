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

  return { code, copy, find, html, inflate, quoted };
})();
