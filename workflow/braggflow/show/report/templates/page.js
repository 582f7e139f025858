"use strict";
// Pictures are zoomed by wheel, buttons, keys and double click, and moved by dragging. The window that is seen of one is
// kept in shares of the whole picture: a frame shows it by its viewBox, which keeps pixels crisp, any other by a transform.

const MARK = 9;  // radius of a mark on the screen; of one that is zoomed in, at least so many pixels of the detector:
const AROUND = 2.5;
const PIXEL = 48;  // the largest a pixel of the detector becomes on the screen

function zoomable(box) {
  const svg = box.querySelector("svg"), picture = svg || box.querySelector("img");
  const whole = svg ? svg.getAttribute("viewBox").split(" ").map(Number) : null;
  const marks = svg ? [...svg.querySelectorAll("circle")] : [];
  let scale = 1, left = 0, top = 0;

  function draw() {
    left = Math.min(Math.max(left, 0), 1 - 1 / scale);
    top = Math.min(Math.max(top, 0), 1 - 1 / scale);
    if (svg) {
      const [x, y, width, height] = whole;
      svg.setAttribute("viewBox", [x + left * width, y + top * height, width / scale, height / scale].join(" "));
      const unit = width / scale / svg.clientWidth;
      for (const mark of marks) mark.setAttribute("r", Math.max(MARK * unit, Math.min(AROUND, 3 * MARK * unit)));
    } else {
      picture.style.transform = `scale(${scale}) translate(${-100 * left}%, ${-100 * top}%)`;
    }
  }

  function place(event) {  // of the pointer, in shares of what is seen
    const seen = (svg || picture.parentElement).getBoundingClientRect();
    return [(event.clientX - seen.left) / seen.width, (event.clientY - seen.top) / seen.height];
  }

  function zoom(factor, [x, y]) {
    const before = scale;
    scale *= factor;
    left += x / before; top += y / before;
    const most = svg ? PIXEL * whole[2] / svg.clientWidth : 8;
    scale = Math.max(Math.min(scale, most), 1);
    left -= x / scale; top -= y / scale;
    draw();
  }

  const keys = {
    "+": () => zoom(1.5, [.5, .5]), "=": () => zoom(1.5, [.5, .5]), "-": () => zoom(1 / 1.5, [.5, .5]),
    "0": () => zoom(0, [0, 0]),
    ArrowLeft: () => move(-.1, 0), ArrowRight: () => move(.1, 0), ArrowUp: () => move(0, -.1), ArrowDown: () => move(0, .1),
  };

  function move(x, y) { left += x / scale; top += y / scale; draw(); }

  box.tabIndex = 0;
  box.addEventListener("keydown", event => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.target !== box) return;
    event.preventDefault();
    keys[event.key]();
  });
  picture.addEventListener("wheel", event => {
    if (document.activeElement !== box && !event.ctrlKey) return;  // the page is scrolled, until the picture was clicked
    event.preventDefault();
    zoom(Math.exp(-Math.sign(event.deltaY) * .25), place(event));
  }, {passive: false});
  picture.addEventListener("dblclick", event => zoom(2, place(event)));
  let held = null;
  picture.addEventListener("pointerdown", event => {
    held = place(event);
    box.focus({preventScroll: true});
    picture.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  picture.addEventListener("pointermove", event => {
    const at = place(event);
    if (held) { move(held[0] - at[0], held[1] - at[1]); held = at; }
  });
  picture.addEventListener("pointerup", () => { held = null; });
  picture.addEventListener("pointercancel", () => { held = null; });

  const buttons = document.createElement("span");
  buttons.className = "buttons";
  for (const [sign, words, key] of [["+", "larger", "+"], ["−", "smaller", "-"], ["⤢", "all of it", "0"]]) {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = sign; button.title = words;
    button.addEventListener("click", () => { keys[key](); box.focus({preventScroll: true}); });
    buttons.append(button);
  }
  box.append(buttons);
  if (svg) tell(box, svg, marks);
  draw();
  addEventListener("resize", draw);
}

// What a mark says of its peak, and where the pointer is.
function tell(box, svg, marks) {
  const said = document.createElement("div"), where = document.createElement("span");
  said.className = "said"; where.className = "where";
  said.hidden = true;
  box.append(said, where);
  for (const mark of marks) {
    mark.told = mark.firstElementChild.textContent;
    mark.firstElementChild.remove();  // else the browser would say it too, later
  }
  svg.addEventListener("pointermove", event => {
    const seen = svg.getBoundingClientRect(), box_ = box.getBoundingClientRect();
    const [x, y, width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const column = Math.round(x + (event.clientX - seen.left) / seen.width * width);
    const row = Math.round(y + (event.clientY - seen.top) / seen.height * height);
    where.textContent = `y ${row}, x ${column}`;
    const told = event.target.told;
    said.hidden = !told;
    if (!told) return;
    said.textContent = told;
    const over = event.clientX - box_.left, down = event.clientY - box_.top;
    said.style.left = `${Math.min(over + 14, box_.width - said.offsetWidth - 4)}px`;
    said.style.top = `${down + 18 + said.offsetHeight > box_.height ? down - said.offsetHeight - 10 : down + 18}px`;
  });
  svg.addEventListener("pointerleave", () => { said.hidden = true; where.textContent = ""; });
}

// A click on the head of a column sorts the rows by it, a second one the other way round.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    if (head.classList.contains("unsorted")) return;
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
      const key = row => {
        const text = row.cells[at].dataset.value;
        return text === undefined ? row.cells[at].textContent.trim() : text === "" ? -Infinity : Number(text);
      };
      const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
      rows.sort(([a], [b]) => down * (typeof a === "number" ? a - b || 0 : a.localeCompare(b, undefined, {numeric: true})));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

document.querySelectorAll(".zoom").forEach(zoomable);
document.querySelectorAll("table.sortable").forEach(sortable);
