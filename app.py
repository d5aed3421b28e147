"""Start the playground: ``python app.py``, then open the address it prints. This is also what a Space runs."""

from steering.ui.serve import serve

if __name__ == "__main__":
    serve()
