"""What is drawn: tables in, pictures and pages out. Knows plotly and HTML, and no model.

Results draw themselves by calling down here: ``ShiftTable.plot()`` is `views.shift_figures`, a ``_repr_html_`` is put
together from `views.markup`. A page (`views.pages`) is one file that fetches nothing; all text in it is escaped.

    from workbench.views.shift_figures import stratum_curves
    stratum_curves(table.table, "kl").show()

A new figure: a function from a DataFrame to a plotly figure, in the file named for its subject (`null_figures` is the
shortest to copy); check the columns with `tables.rows_where`, name the axis with its unit.
"""
