"""Planning with world models: action spaces, costs, planners, and agents that replan while they act."""

from hf_jepa.planning.action_space import ActionSpace, DiscreteActionSpace
from hf_jepa.planning.agent import MpcAgent
from hf_jepa.planning.cem import CategoricalCEMPlanner, CEMPlanner, ICEMPlanner
from hf_jepa.planning.control import ControlRecord, control_loop
from hf_jepa.planning.costs import DISTANCES, LatentCost, WeightedCost, encode_goal
from hf_jepa.planning.gradient import GradientPlanner
from hf_jepa.planning.hierarchical import HierarchicalPlan, HierarchicalPlanner, LevelPlan, macro_settings
from hf_jepa.planning.hierarchical_agent import HierarchicalAgent
from hf_jepa.planning.landscape import EnergyLandscape, energy_landscape
from hf_jepa.planning.mppi import MPPIPlanner
from hf_jepa.planning.noise import RecordedNoise, color_noise
from hf_jepa.planning.planner import Cost, Plan, PlanIteration, Planner
from hf_jepa.planning.presets import eb_jepa_planner, jepa_wms_planner, vjepa2_ac_planner
from hf_jepa.planning.sampling import RandomShootingPlanner


# Name -> class, for programs that let people choose.
PLANNERS: dict[str, type[Planner]] = {
    "cem": CEMPlanner,
    "icem": ICEMPlanner,
    "mppi": MPPIPlanner,
    "gradient": GradientPlanner,
    "random_shooting": RandomShootingPlanner,
    "categorical_cem": CategoricalCEMPlanner,
}

__all__ = [
    "DISTANCES",
    "PLANNERS",
    "ActionSpace",
    "CEMPlanner",
    "CategoricalCEMPlanner",
    "ControlRecord",
    "Cost",
    "DiscreteActionSpace",
    "EnergyLandscape",
    "GradientPlanner",
    "HierarchicalAgent",
    "HierarchicalPlan",
    "HierarchicalPlanner",
    "ICEMPlanner",
    "LatentCost",
    "LevelPlan",
    "MPPIPlanner",
    "MpcAgent",
    "Plan",
    "PlanIteration",
    "Planner",
    "RandomShootingPlanner",
    "RecordedNoise",
    "WeightedCost",
    "color_noise",
    "control_loop",
    "eb_jepa_planner",
    "encode_goal",
    "energy_landscape",
    "jepa_wms_planner",
    "macro_settings",
    "vjepa2_ac_planner",
]
