"""A page to play with a trained model, served to the machine it runs on.

session.py     what the page can do, as plain calls of `inference`; knows no server
uploads.py     files from outside as observations: bounded, checked, never kept; rows.py: those that are no pictures
app.py         addresses, limits, and whom it answers
page/          HTML, CSS and one ES module; nothing is built, nothing is fetched from elsewhere
"""
