// The box that finds a token of the page's vocabulary by its text. known(): words with exact numbers at the position.
function lensSearch({ search, options }, data, known, take) {
  const FOUND = 12;
  const plain = (text) => text.replaceAll("␣", " ").trim().toLowerCase();
  const texts = data.vocabulary.map(plain);
  let active = 0;

  function suggest() {
    const wanted = plain(search.value);
    const here = known();
    const found = [];
    if (search.value)
      texts.forEach((own, word) => {
        const rank = own === wanted ? 0 : own.startsWith(wanted) ? 1 : own.includes(wanted) ? 2 : 3;
        if (rank < 3) found.push([rank, here.has(word) ? 0 : 1, own.length, word]);
      });
    found.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]);
    const items = found.slice(0, FOUND).map(([, , , word], index) => {
      const item = lensMake("li", { role: "option", id: `${options.id}-${index}`, "aria-selected": index === active },
        lensMake("span", { className: "text", textContent: data.vocabulary[word] }),
        lensMake("span", { className: "p", textContent: `#${data.ids[word]}${here.has(word) ? " · exact here" : ""}` }));
      item.dataset.word = word;
      return item;
    });
    if (wanted && !items.length) items.push(lensMake("li", { className: "none", textContent: "among no predictions on this page" }));
    options.replaceChildren(...items);
    options.hidden = !items.length;
    search.setAttribute("aria-expanded", String(!options.hidden));
    items[active]?.id ? search.setAttribute("aria-activedescendant", items[active].id) : search.removeAttribute("aria-activedescendant");
  }
  function close() {
    options.hidden = true;
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
  }
  function choose(item) {
    if (!item?.dataset.word) return;
    search.value = "";
    close();
    take(Number(item.dataset.word));
  }

  search.addEventListener("input", () => {
    active = 0;
    suggest();
  });
  search.addEventListener("blur", close);
  search.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const count = Math.max(1, options.querySelectorAll("[data-word]").length);
      active = (active + step + count) % count;
      suggest();
    } else if (event.key === "Enter") {
      choose(options.children[active]);
    } else if (event.key === "Escape") {
      search.value = "";
      close();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  options.addEventListener("mousedown", (event) => { // before the box loses focus and closes
    event.preventDefault();
    choose(event.target.closest("li"));
  });
}
