"use strict";
const $ = (selector) => document.querySelector(selector);
const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;

/** An element with attributes (functions become event listeners) and children (strings as text). */
function element(tag, attributes = {}, ...children) {
  const made = ["svg", "line"].includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An image, enlarged without blur if it is tiny; without a source, the reason instead. */
function thumbnail(source, path, reason) {
  if (!source) return element("div", {class: "none"}, reason);
  return element("img", {src: source, alt: path, loading: "lazy",
    load: (event) => event.target.classList.toggle("pixels", event.target.naturalWidth < 64)});
}
