"""Chart views of a sweep, saved on an MLflow experiment: listed in its "Views" menu, opened by a link.

MLflow does not document how it saves views, so they are written only for servers whose format was tried.
"""

from surge_sweeps.trackers.mlflow.views.measured import ViewNames
from surge_sweeps.trackers.mlflow.views.saved import TAG_VIEW, View, supports_views
from surge_sweeps.trackers.mlflow.views.write import write_views

__all__ = ["TAG_VIEW", "View", "ViewNames", "supports_views", "write_views"]
