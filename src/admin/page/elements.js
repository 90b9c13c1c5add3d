// Puts what the daemon says into the page: as text, always.

function get(id) {
  return document.getElementById(id);
}

/** An element. Attributes are words of ours; children that are strings become text. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Changes a text where it is another: what is selected stays so, and readers are not disturbed. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** Fills a table's body; a cell is a text, or a text and a class. What is there already is kept. */
function fillTable(body, rows) {
  const labels = [...body.parentElement.tHead.rows[0].cells].map((cell) => cell.textContent);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] ?? body.insertRow();
    cells.forEach((cell, column) => {
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      let made = row.cells[column];
      if (!made) {
        made = column === 0 ? element("th", { scope: "row" }) : element("td", {});
        made.append(element("span", {}));
        made.dataset.label = labels[column];
        row.append(made);
      }
      setText(made.firstChild, text);
      setClass(made, text === "" ? `${kind} empty` : kind);
    });
  });
}

/** Fills a list of facts: a name, a value, what it means, and whether that is good. */
function fillTiles(list, tiles) {
  tiles.forEach(([name, value, more, kind], at) => {
    if (!list.children[at]) {
      list.append(element("div", {}, element("dt", {}), element("dd", {}), element("dd", {})));
    }
    const [term, first, second] = list.children[at].children;
    setText(term, name);
    setText(first, value);
    setClass(first, kind ?? "");
    setText(second, more);
  });
}
